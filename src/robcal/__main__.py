"""`python -m robcal` is `robcal`."""

from robcal.cli import main

main()
