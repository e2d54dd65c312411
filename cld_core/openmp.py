"""How the threads of OpenMP, with which torch computes on CPUs, wait for each other. Loads no torch."""

import os

# Of GNU's OpenMP, that of torch's packages for Linux. Threads spin for milliseconds there before they sleep: time that
# whoever they wait for needs, where there are more threads than cores. Not spinning at all halves the rate of small
# networks on an idle machine.
_SPINS = ("GOMP_SPINCOUNT", "1000")
_POLICY = "OMP_WAIT_POLICY"


def wait_briefly() -> None:
    """Let threads that wait for others soon sleep, so that a busy machine slows small networks down less.

    Only a process that has not loaded torch yet heeds it. Its children inherit it, and what is set is kept.
    """
    if _POLICY not in os.environ:
        os.environ.setdefault(*_SPINS)
