"""Choosing the next plan to try: rank candidates, allocation and the controller."""
