"""How others choose ranks, to compare with."""
