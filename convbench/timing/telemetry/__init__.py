"""Telemetry of the machine during timing, sampled by another process."""
