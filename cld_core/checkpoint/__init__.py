"""Checkpoints: written in the background, whole or not at all, and verified before they are used.

`files` knows names, sidecars and what is removed, and loads no torch; `write` and `load` hold the tensors.
"""
