"""`python -m cldctl`, if the script is not on PATH."""

from .app import main

main()
