"""`python -m physgen` is the command `physgen`."""

from physgen.cli import main

main()
