"""Data sets as images and as shuffled batches."""
