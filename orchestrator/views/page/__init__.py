"""The report's page: what a sweep asked and found, in one HTML file, or live while it runs."""
