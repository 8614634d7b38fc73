"""Reasons not to believe a result, each in a file of its own."""
