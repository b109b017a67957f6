"""What runs in a container, in one process with the user's program or beside it: hostile as soon as the program is.

Zygotes import it too, to have it ready, but run none of it with a program's data.
"""
