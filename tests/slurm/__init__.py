"""A real, throw-away Slurm on one machine, and the tests that need one."""
