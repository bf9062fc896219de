"""How good the images of a generator are, and how sure one can be of it."""
