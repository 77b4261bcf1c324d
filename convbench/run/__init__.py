"""Requests and their stored rows, in the parent process: plan, processes, rows."""
