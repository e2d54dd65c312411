"""The run folder, the only state that processes share: its paths, its ledger, its lease, and
records of what is in it.

Records of checkpoints, evaluations and tunings are read here, and made by others. Loads no torch.
"""

from .folder import RunFolder, find_runs
from .history import Attempt, History
from .lease import Lease
from .ledger import Ledger

__all__ = ["Attempt", "History", "Lease", "Ledger", "RunFolder", "find_runs"]
