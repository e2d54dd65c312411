"""Checkpoints: written in the background, whole or not at all, and verified before they are used.

`step_00010000.pt` holds the tensors, `step_00010000.json` beside it (the sidecar) step, size and checksum. The sidecar
is renamed into place after the tensors, so a checkpoint without one was never finished.

Import the modules: `verify` loads no torch, the others do.
"""
