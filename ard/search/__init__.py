"""Which plan to try next: candidates of each layer, the knapsack, the controller."""
