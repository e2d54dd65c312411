"""What the readers of published checkpoints raise to each other."""


class Mismatch(Exception):
    """Something in a file does not fit the recipe's network: a message without the file and the fix."""
