"""Everything that touches a sandbox. I/O, no Ray."""
