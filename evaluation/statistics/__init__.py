"""Numbers from arrays of scores: rates, intervals, lower bounds on ε. No run, no model, no file."""
