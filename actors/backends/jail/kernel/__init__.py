"""The kernel's means of isolation: namespaces, seccomp, Landlock, control groups, memory. Standard library only."""
