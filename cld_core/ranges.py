"""How n items are divided among k parts, for ranks and shards alike, and how many rows a file holds."""

# Rows of images in a file, if their kind has no other number: few enough that a killed task loses little.
CHUNK = 128
# Rows of points in the plane, which are computed at once: likelihood bounds of fewer take 1.7 times as long each.
POINTS_CHUNK = 1024


def share(n: int, part: int, parts: int) -> tuple[int, int]:
    """First and last-plus-one of the items of one part. Shares are contiguous and differ by at most one item.

    Where there are more parts than items, some shares are empty (first equals last).
    """
    assert 0 <= part < parts, f"part {part} of {parts}"
    return n * part // parts, n * (part + 1) // parts
