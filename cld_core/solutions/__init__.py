"""Solutions of `cldctl tune`: the times and coefficients of a sampler that was fitted to one network. Loads no torch.

A run keeps each in ``tuned/ID/solution.json``; exported files contain them (docs/math.md section 7.5).
"""

from .choosing import Network, Solutions, following, guidance_of, moved_on
from .solution import FILE, Solution, in_run, read

__all__ = ["FILE", "Network", "Solution", "Solutions", "following", "guidance_of", "in_run", "moved_on", "read"]
