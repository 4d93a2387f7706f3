"""What Python programs and notebooks use of this package; `orchestrator` itself has the names."""
