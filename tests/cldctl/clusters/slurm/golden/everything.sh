#!/bin/bash

# Parameters
#SBATCH --account=me
#SBATCH --constraint=a100
#SBATCH --cpus-per-task=8
#SBATCH --error=/runs/mine/logs/%j_0_log.err
#SBATCH --exclude='n[1-3]'
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --job-name=mine
#SBATCH --mail-type=END
#SBATCH --mem=480GB
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output=/runs/mine/logs/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=high
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=90

# setup
cldctl_begin=$(stat -L -c %s /proc/$$/fd/2 2>/dev/null || echo 0)
cldctl_told_to_end() {
  trap - TERM
  export CLDCTL_SIGNAL_S=120
  export PYTHONSAFEPATH=1
  apptainer exec --nv image.sif PYTHON -P -m cldctl.jobs.aftermath /runs/mine 143 setup $cldctl_begin
  exit 143
}
trap cldctl_told_to_end TERM
module load cuda
ulimit -n 4096
export CLDCTL_SIGNAL_S=120
export PYTHONSAFEPATH=1
set +e
trap - TERM

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /runs/mine/logs/%j_%t_log.out --error /runs/mine/logs/%j_%t_log.err --kill-on-bad-exit=1 --cpus-per-task=8 --cpu-bind=cores apptainer exec --nv image.sif PYTHON -P -u -m cldctl.clusters.entry /runs/mine/logs


# teardown
code=$?
apptainer exec --nv image.sif PYTHON -P -m cldctl.jobs.aftermath /runs/mine $code
exit $code