"""The run folder, the only state that processes share: paths, ledger, lease and records.

The records of checkpoints, evaluations and tunings are read here, and made in other packages. Loads
no torch.
"""

from .folder import RunFolder, find_runs
from .history import Attempt, History
from .lease import Lease
from .ledger import Ledger

__all__ = ["Attempt", "History", "Lease", "Ledger", "RunFolder", "find_runs"]
