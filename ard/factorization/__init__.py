"""Factorization methods, one per file: kernels in, factors out."""
