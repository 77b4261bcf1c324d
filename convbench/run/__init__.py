"""From a request to stored rows, in the parent process: plan, processes, rows."""
