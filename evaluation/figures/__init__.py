"""The figures, all in one style."""
