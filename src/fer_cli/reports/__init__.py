"""What is shown of results: terminal, JSON, self-contained pages."""
