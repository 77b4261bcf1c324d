"""Checks before, during and after timing; each returns a finding or None."""
