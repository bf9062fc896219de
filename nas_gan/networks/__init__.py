"""Networks by name, and the parts they are made of."""
