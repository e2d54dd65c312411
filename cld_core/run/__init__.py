"""The run folder: its paths, its ledger and its lease. The only state that processes share. Loads no torch."""

from .folder import RunFolder, find_runs
from .lease import Lease
from .ledger import Attempt, Ledger, attempts_of

__all__ = ["Attempt", "Lease", "Ledger", "RunFolder", "attempts_of", "find_runs"]
