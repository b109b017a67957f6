"""Typed faces of the actors and of sessions; every ``.remote`` is here."""
