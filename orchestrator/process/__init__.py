"""This process: its output streams and the signals it gets."""
