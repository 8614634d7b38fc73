"""Defenses: how models are trained so that they leak less about their records."""
