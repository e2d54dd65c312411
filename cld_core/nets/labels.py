"""How networks see the class of an example."""

import torch
from torch import Tensor, nn

# Numbers that stand for a label where they are appended to an input.
LABEL_FEATURES = 16


class LabelEmbedding(nn.Embedding):
    """A vector for each of the classes, and one more for "no label"."""

    def of(self, like: Tensor, label: tuple[Tensor, ...]) -> Tensor:
        """(B, size), for a batch ``like`` (B, ...) with labels, or with none."""
        none = self.num_embeddings - 1
        return self(*(label or (torch.full((len(like),), none, device=like.device),)))


def embedding(classes: int, size: int) -> LabelEmbedding | None:
    """None, which draws no random numbers, for a network without labels."""
    return LabelEmbedding(classes + 1, size) if classes else None
