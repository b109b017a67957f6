"""What the PoolSupervisor does: a pool of sandboxes for each backend."""
