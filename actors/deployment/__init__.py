"""How a deployment comes to be, how it is joined, and how it ends."""
