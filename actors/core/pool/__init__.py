"""How large the pool should be, and what to do next to get there."""
