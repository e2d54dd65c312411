#!/bin/bash

# Parameters
#SBATCH --error=/runs/mine/logs/%j_0_log.err
#SBATCH --job-name=mine
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/mine/logs/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@90

# setup
cldctl_logs=/runs/mine/logs
cldctl_code=''
cldctl_notice=90
cldctl_away='unexpected message received|unable to contact slurm|timed out|connection refused|zero bytes were transmitted|could not establish a configuration source|dns srv lookup failed|standby mode|communication connection failure|temporarily un(able|available)|protocol authentication error|transport endpoint is not connected|no route to host|network is unreachable|connection reset'
cldctl_ask() { (cldctl_import && cldctl_within "$cldctl_patience" PYTHON -m cldctl.jobs.aftermath /runs/mine "$@"); }
# follow.sh
set -eE
cldctl_plain
trap - ERR
trap '' TERM
trap cldctl_follow EXIT
cldctl_phase=work
unset SLURM_EXPORT_ENV
cldctl_import || exit 1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /runs/mine/logs/%j_%t_log.out --error /runs/mine/logs/%j_%t_log.err --kill-on-bad-exit=1 PYTHON -u -m submitit.core._submit /runs/mine/logs
