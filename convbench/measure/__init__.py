"""One order in, measurements out, inside a worker process: no files, no printing."""
