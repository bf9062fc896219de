"""Weights in, factors out: Tucker-2, CP, SVD and spatial SVD of convolution and linear weights."""
