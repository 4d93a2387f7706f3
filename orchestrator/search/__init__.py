"""Which configuration comes next: spaces, samplers, schedulers, the study. The only package that imports Optuna."""
