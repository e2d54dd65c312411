#!/usr/bin/env bash
# `make demo`: the main workflow on this machine, from a recipe to a picture, with two worker processes.
set -euo pipefail
cd "$(dirname "$0")/.."
name="demo-$(date +%m%d-%H%M%S)"
say() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }

say "1. Train with two processes and evaluate: cldctl submit recipes/toy_demo.yaml --cluster local --follow --eval elbo"
cldctl submit recipes/toy_demo.yaml --name "$name" --cluster local --follow --eval elbo

say "2. Draw samples: cldctl sample $name -n 4000"
picture=$(cldctl sample "$name" -n 4000)

say "3. Show the run: cldctl status $name"
cldctl status "$name"

cat <<END
picture of samples over the true density   $picture
training curves                            tensorboard --logdir $CLDCTL_RUNS/$name/tensorboard

Next (with .venv/bin on PATH and CLDCTL_RUNS=$CLDCTL_RUNS):
  cldctl status --watch
  cldctl resume $name train.steps=40000 --follow
  cldctl eval $name --elbo eval.elbo.velocities=16 --follow
  cldctl submit recipes/toy_diamond.yaml train.steps=20000 --cluster local --follow
  python -c "import cld_core; print(cld_core.load('$CLDCTL_RUNS/$name').sample(4))"
END
