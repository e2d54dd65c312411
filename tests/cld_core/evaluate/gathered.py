"""All rows of a complete evaluation, which reports condense."""

import torch

from cld_core.evaluate.evaluation import Evaluation
from cld_core.shards import Arrays, Task, joined


def gather(work: Evaluation) -> dict[str, Arrays]:
    """By kind, the rows of all chunks, in the order of samples or test points."""
    task = Task(work, torch.device("cpu"), lambda: False)
    return {kind: joined(task.parts(kind)) for kind in work.request.sizes}
