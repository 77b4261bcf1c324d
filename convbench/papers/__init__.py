"""The papers' printed numbers and their way of timing, replayed and checked against physics."""
