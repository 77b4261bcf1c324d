"""Rows as text, Markdown, CSV, JSON and LaTeX; the papers' own tables."""
