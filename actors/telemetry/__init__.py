"""Structured logs, counters, and their form for Prometheus."""
