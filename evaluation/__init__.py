"""The referee: what attacks find, and what that proves."""

from palisade.evaluation.epsilon_audit import Audit, audit_scores

__all__ = ["Audit", "audit_scores"]
