"""Cluster files for `ray up`, and how a sweep reaches a cluster."""
