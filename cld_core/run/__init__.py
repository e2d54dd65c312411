"""The run folder: its paths, its ledger and its lease. The only state that processes share. Loads no torch."""

from .attempt import Attempt
from .folder import RunFolder, find_runs
from .history import History
from .lease import Lease
from .ledger import Ledger

__all__ = ["Attempt", "History", "Lease", "Ledger", "RunFolder", "find_runs"]
