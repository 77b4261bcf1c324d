"""One HTML file with everything, and its check."""
