"""`python -m ebbtide`: the command line."""

from ebbtide.cli import main

main()
