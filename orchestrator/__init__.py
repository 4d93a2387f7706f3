"""Sweeps: the search, its results and the choice of a winner."""

import os

# Set before torch starts its threads. By default a thread that waits for another spins, and where several trials, or a
# trial and anything else, share the cores, that makes an epoch ten times longer.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
