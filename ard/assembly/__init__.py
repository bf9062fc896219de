"""Building the generator of a plan: layers are replaced by factors and corrected in closed form."""
