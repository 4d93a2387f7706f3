"""Text: numbers, names, Markdown, commands to type."""
