"""From a plan to its generator: layers replaced by factors, repaired in closed form."""
