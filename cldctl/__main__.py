"""`python -m cldctl`, where the script is not on PATH."""

from .app import main

main()
