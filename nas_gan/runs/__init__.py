"""Finished and running runs, read back from their directories."""
