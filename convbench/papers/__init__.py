"""What the papers print and how they timed it, replayed and held against physics."""
