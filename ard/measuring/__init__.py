"""Measurements: what is measured, where it runs, and the record it is replayed from."""
