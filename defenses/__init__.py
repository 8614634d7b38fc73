"""Defenses: how models are trained so that they tell less about their records."""
