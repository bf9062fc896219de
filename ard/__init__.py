"""Adaptive rank decomposition: everything about ranks."""
