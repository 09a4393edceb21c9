"""Trains the demo model; not part of the package."""
