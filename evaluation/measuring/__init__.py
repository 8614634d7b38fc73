"""One run, measured: every attack on every model, what it proves, and how useful the models are."""
