"""What a run will take, before it starts: evaluations, seconds and bytes, here and on workers."""
