"""Checkpoints: written in the background, whole or not at all, and verified before they are used.

`files` knows names, sidecars and what is removed, and loads no torch; `tensors` writes and reads the rest.
"""
