"""The cost of a plan: parameters, multiply-adds, or milliseconds measured per layer."""
