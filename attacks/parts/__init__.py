"""Parts that several attacks are made of, and what all of them see."""
