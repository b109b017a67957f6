"""The processes that fork the others: they are trusted, run no program, and hold rights only inside a jail.

Jail server and zygotes belong to an image; shim, fork servers and container inits to one jail.
"""
