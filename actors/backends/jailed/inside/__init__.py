"""What runs in the zygote and in the jails: the standard library, IPython, and nothing else of this project."""
