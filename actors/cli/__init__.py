"""The command line, ``e2b-orchestrator``."""
