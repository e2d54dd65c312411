"""How n items are divided among k parts, for ranks and shards alike."""


def share(n: int, part: int, parts: int) -> tuple[int, int]:
    """First and last-plus-one of the items of one part. Shares are contiguous and differ by at most one item.

    Where there are more parts than items, some shares are empty (first equals last).
    """
    assert 0 <= part < parts, f"part {part} of {parts}"
    return n * part // parts, n * (part + 1) // parts
