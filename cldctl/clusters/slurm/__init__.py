"""``--cluster slurm``: jobs and arrays that are requeued, with an aftermath and successors."""
