"""The life of a run inside the Orchestrator: its path, grants, sessions, keys and scores."""
