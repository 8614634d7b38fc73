"""Audits of models that are trained already, without shadow models."""
