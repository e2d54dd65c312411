"""Jobs: what to run where, how to start and end it, and what the scheduler says of it."""
