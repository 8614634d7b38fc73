"""The report: what an evaluation tells people, and programs."""
