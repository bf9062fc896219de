"""Kernels in, factors out: the factorization methods, one a file."""
