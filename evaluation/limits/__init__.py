"""A limit on leakage: which run keeps it best, and whether all of them do."""
