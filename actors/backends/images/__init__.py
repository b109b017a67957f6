"""What sandboxes contain: the list of packages, and the environments that are built from it."""
