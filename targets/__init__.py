"""What is trained and released."""

RESULTS_VERSION = 3
"""Part of every run's name; raised when a change makes the same configuration give other models."""
