"""What is fast, how fast against what, and what training reaches: each module runs as `python -m benchmarks.NAME`."""
