"""Training: `python -m cld_core.train RUN_FOLDER` under torchrun or mpirun, or a job that `cldctl`
submits."""
