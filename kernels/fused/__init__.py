"""Whole networks with fused blocks."""
