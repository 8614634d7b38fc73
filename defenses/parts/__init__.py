"""Parts that several defenses are made of, and what all of them are."""
