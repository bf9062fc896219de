"""Weights in files: reading them safely, finding the generator's, and fitting them to a network."""
