"""The referee: what attacks find, and what that proves."""

from palisade.evaluation.audit import Audit, audit_scores

__all__ = ["Audit", "audit_scores"]
