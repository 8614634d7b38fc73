"""Answers of a run's models to an attacker: asked once, stored, and no more of them shown than is granted."""
