"""All rows of a complete evaluation, which reports condense."""

from cld_core.evaluate import registry
from cld_core.evaluate.evaluation import Evaluation
from cld_core.shards.files import Arrays
from cld_core.shards.merging import Merged


def gather(work: Evaluation) -> dict[str, Arrays]:
    """By kind, the rows of all shards, in the order of samples or test points."""
    merged = Merged(work)
    return {kind: registry.row_computer(kind).join(merged.parts(kind)) for kind in work.request.sizes}
