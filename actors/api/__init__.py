"""The HTTP front door: routers that ``serve_app.py`` mounts."""
