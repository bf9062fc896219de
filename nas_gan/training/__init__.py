"""The training loop, what one update does, and the files of a run."""
