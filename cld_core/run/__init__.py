"""The run folder: its paths, its ledger and its lease. The only state that processes share. Loads no torch."""

from .folder import RunFolder, find_runs
from .history import Attempt, History
from .lease import Lease
from .ledger import Ledger

__all__ = ["Attempt", "History", "Lease", "Ledger", "RunFolder", "find_runs"]
