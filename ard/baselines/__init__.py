"""Baselines: how others choose ranks, for comparison."""
