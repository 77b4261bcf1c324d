"""What the machine did while something was timed, sampled by another process."""
