"""From a --weights text to a state dict, without running anything a file says."""
