"""Figures, grids and animations."""
