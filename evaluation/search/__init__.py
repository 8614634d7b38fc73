"""A search over defenses for the frontier of utility and leakage."""
