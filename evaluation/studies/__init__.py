"""Studies of targets under several settings: output levels, sources of shadows, factors of risk."""
