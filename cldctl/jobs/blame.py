"""Whether an error only says that something else failed. Pure."""

import re

# What a rank says whose peers are gone: gloo, NCCL, the store that ranks meet at, and our own watcher.
_PEER = re.compile(
    r"another rank is gone|connection (?:closed|reset) by peer|broken pipe|rank 0 could not"
    r"|\bgloo\b|NCCL|ProcessGroup|RankError|DistBackendError|DistNetworkError|DistStoreError",
    re.IGNORECASE,
)


def is_secondary(text: str) -> bool:
    """Whether this is the error, with its type, of a rank that another one has taken along."""
    return _PEER.search(text) is not None
