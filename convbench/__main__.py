"""``python -m convbench``: the command line, from a bare checkout too."""

from .cli import main

main()
