"""Sweeps: the search, its results and the choice of a winner."""
