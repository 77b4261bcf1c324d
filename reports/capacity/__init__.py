"""Capacity plans: from stored rows, a demand and prices to the devices that meet it."""
