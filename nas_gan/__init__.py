"""Generators: search, train, sample and score them."""
