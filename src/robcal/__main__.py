"""`python -m robcal` is `robcal`."""

from robcal.commands.cli import main

main()
