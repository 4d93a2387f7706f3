"""What is shown: progress lines, tables, the HTML report, experiment trackers."""
