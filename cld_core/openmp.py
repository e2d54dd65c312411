"""How the threads of OpenMP, with which torch computes on CPUs, wait for each other. Loads no torch."""

import os

_POLICY = "OMP_WAIT_POLICY"


def wait_passively() -> None:
    """Let threads that wait for others sleep, not spin, so that a busy machine slows small networks down less.

    Only a process that has not loaded torch yet heeds it. Its children inherit it, and a value that is set is kept.
    """
    os.environ.setdefault(_POLICY, "PASSIVE")
