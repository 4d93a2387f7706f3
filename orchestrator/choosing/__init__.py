"""Choosing a checkpoint: arrays in, arrays out; no torch, no Ray."""
