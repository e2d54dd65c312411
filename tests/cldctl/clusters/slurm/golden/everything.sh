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
cldctl_logs=/runs/mine/logs
cldctl_code=''
cldctl_notice=120
cldctl_away='unexpected message received|unable to contact slurm|timed out|connection refused|zero bytes were transmitted|could not establish a configuration source|dns srv lookup failed|standby mode|communication connection failure|temporarily un(able|available)|protocol authentication error|transport endpoint is not connected|no route to host|network is unreachable|connection reset'
cldctl_ask() { (cldctl_import && cldctl_within "$cldctl_patience" apptainer exec --nv image.sif PYTHON -m cldctl.jobs.aftermath /runs/mine "$@"); }
# follow.sh
set -eE
module load cuda
ulimit -n 4096
cldctl_plain
trap - ERR
trap '' TERM
trap cldctl_follow EXIT
cldctl_phase=work
unset SLURM_EXPORT_ENV
cldctl_import || exit 1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /runs/mine/logs/%j_%t_log.out --error /runs/mine/logs/%j_%t_log.err --kill-on-bad-exit=1 --cpus-per-task=8 --cpu-bind=cores apptainer exec --nv image.sif PYTHON -u -m submitit.core._submit /runs/mine/logs
