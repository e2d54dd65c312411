"""The command line and the scheduler's side of it."""
