"""Records, their roles, who is trained on what, and where data come from."""
