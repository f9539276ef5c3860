"""`python -m mayfly`: the same as the console script."""

from mayfly.cli import main

main()
