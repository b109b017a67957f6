"""The orchestrator: an actor-model system on Ray that runs untrusted code in sandboxes."""
