"""Resolution of --weights to a state dict, without executing code from a file."""
