"""What compress, sweep and pareto share: settings, run directory and the wiring of a search."""
