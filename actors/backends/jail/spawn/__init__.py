"""The processes that fork the others; trusted, and without rights once a jail is made."""
