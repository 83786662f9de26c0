"""`python -m ecompile_operator`."""

from .main import main

main()
