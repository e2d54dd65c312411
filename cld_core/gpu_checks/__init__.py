"""Checks that this library computes the right numbers on a GPU, without waiting for it, and at a reasonable speed.

``python -m cld_core.gpu_checks`` runs them; `cldctl doctor --gpu` runs the quick ones, and ``pytest -m gpu`` all of
them (docs/gpu.md). The table is in `registry`; each check is a function of a `findings.Context`. Everything also runs
on the CPU at a small scale, where the tests break it on purpose.
"""
