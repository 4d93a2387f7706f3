"""What is optimised: a metric, a score of several, limits, a Pareto front."""
