"""The referee: what attacks find, and what that proves."""

from evaluation.audit import Audit, audit_scores

__all__ = ["Audit", "audit_scores"]
