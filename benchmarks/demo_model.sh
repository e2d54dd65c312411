#!/usr/bin/env bash
# Train the model of docs/demo.ipynb, export it to docs/demo.safetensors, and run the notebook with it. Arguments change
# keys of the recipe:
#
#   benchmarks/demo_model.sh train.steps=20000
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
runs="$(mktemp -d)"
trap 'rm -rf "$runs"' EXIT
export CLDCTL_RUNS="$runs"
"$python" -m cldctl submit recipes/toy_demo.yaml --name demo --cluster debug cluster.tasks_per_node=1 "$@"
"$python" -m cldctl export demo -o docs/demo.safetensors
PYTHONPATH="$PWD" "$python" -m jupyter execute --inplace docs/demo.ipynb
