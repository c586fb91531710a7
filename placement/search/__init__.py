"""Placements with bounds: each strategy on a packing, and searches where rules do not pack."""
