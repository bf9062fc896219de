"""What compress, sweep and pareto share: settings, the run directory, the wiring of a search."""
