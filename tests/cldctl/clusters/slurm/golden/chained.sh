#!/bin/bash

# Parameters
#SBATCH --array=0-1%2
#SBATCH --dependency=afterany:JOB_OF_THE_TRAINING
#SBATCH --error=/runs/mine/logs/%A_%a_0_log.err
#SBATCH --job-name=mine
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/mine/logs/%A_%a_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@90

# setup
cldctl_begin=$(stat -L -c %s /proc/$$/fd/2 2>/dev/null || echo 0)
cldctl_told_to_end() {
  trap - TERM
  export CLDCTL_SIGNAL_S=90
  export PYTHONSAFEPATH=1
  PYTHON -P -m cldctl.jobs.aftermath /runs/mine 143 setup $cldctl_begin
  exit 143
}
trap cldctl_told_to_end TERM
export CLDCTL_SIGNAL_S=90
export PYTHONSAFEPATH=1
set +e
trap - TERM

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /runs/mine/logs/%A_%a_%t_log.out --error /runs/mine/logs/%A_%a_%t_log.err --kill-on-bad-exit=1 PYTHON -P -u -m cldctl.clusters.entry /runs/mine/logs


# teardown
code=$?
PYTHON -P -m cldctl.jobs.aftermath /runs/mine $code
exit $code