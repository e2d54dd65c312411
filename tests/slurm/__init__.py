"""A real, disposable Slurm on one machine, and the tests that need one."""
