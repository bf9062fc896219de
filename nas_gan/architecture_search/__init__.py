"""Supernets, and how an architecture is searched for and derived."""
