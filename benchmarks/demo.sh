#!/usr/bin/env bash
# `make demo`: the main workflow on this machine, from a recipe to a picture: training in one process, an evaluation, a picture. `--follow` says how long it will take, from the first steps.
set -euo pipefail
cd "$(dirname "$0")/.."
name="demo-$(date +%m%d-%H%M%S)"
say() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }

say "1. Train on five spirals and evaluate: cldctl submit toy_demo --name $name --cluster local --follow --eval elbo"
cldctl submit toy_demo --name "$name" --cluster local --follow --eval elbo

say "2. Draw samples: cldctl sample $name -n 4000 --method exponential --nfe 50"
picture=$(cldctl sample "$name" -n 4000 --method exponential --nfe 50)

say "3. Show the run: cldctl status $name"
cldctl status "$name"

say "Done. The samples, beside the data: $picture"
bin=$(dirname "$(command -v cldctl)")
runs=$(cd "$CLDCTL_RUNS" && pwd)
cat <<END

To go on in this terminal, make the command and the runs of this demo known:
  export PATH="$bin:\$PATH" CLDCTL_RUNS="$runs"

Then, for example:
  cldctl report $name                                      a page with curves, samples and results
  cldctl why $name                                         what happened, and what to do next
  cldctl sample $name -n 4000 --method sscs --nfe 200      the same model, another sampler
  cldctl eval $name --elbo eval.elbo.velocities=16 --follow   the likelihood bound, more exactly
  cldctl resume $name train.steps=12000 --follow           train it for longer
  cldctl submit toy_demo data.name=diamond --follow --cluster local   other data
  cldctl board $name                                       training curves, in TensorBoard
END
