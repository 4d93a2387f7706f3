"""Machines: what a trial gets of one, cluster files, reaching a cluster."""
