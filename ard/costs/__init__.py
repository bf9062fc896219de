"""What a plan costs: parameters, multiply-adds, or milliseconds measured per layer."""
