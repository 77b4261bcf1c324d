"""What is checked before, while and after something is timed; each check gives a finding or None."""
