"""The HTTP routes that ``serve_app.py`` mounts; they know what is said and not who answers."""
