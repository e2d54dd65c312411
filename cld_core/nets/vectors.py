"""What networks for vectors have in common."""

from cld_core.errors import RecipeError

# Numbers that stand for a label where they are appended to an input.
LABEL_FEATURES = 16


def dimension(data_shape: tuple[int, ...], name: str) -> int:
    """d of data of shape (d,).

    Raises:
        RecipeError: the data are not vectors; names the network.
    """
    if len(data_shape) != 1:
        text = f"network {name} takes vectors, but the data have shape {data_shape}"
        raise RecipeError(f"{text}. Choose a network for images, or a toy data set.")
    return data_shape[0]
