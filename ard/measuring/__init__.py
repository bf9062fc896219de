"""Measuring plans: metrics, evaluators, executors and the journal."""
