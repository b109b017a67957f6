"""A backend that runs nothing and behaves as told, for tests and benchmarks."""
