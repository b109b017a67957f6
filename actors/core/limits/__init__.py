"""Rates, and counts of what exists at one time."""
