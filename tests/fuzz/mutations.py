"""Damage to bytes and to trees of plain values, the same for every format."""

import json

# Values that readers tend not to expect.
ODD_VALUES = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 1e308, -1e308, 1e-320),
    *(float("nan"), float("inf"), "", " ", "\x00", "\x1b[31mred\x1b[0m", "a\nb", "²", "𝟙"),
    *("../../x", "/dev/zero", "null", "~", "1e9", "1_000", "0x10", "${oc.env:HOME}", "${"),
    *("x" * 10_000, [], {}, [[]], {"": None}, {"a": {"b": {}}}, [1, "a", None]),
    *("\ud800", "\u202e"),
)


def damaged(rng, content):
    """``content`` with one to four random changes: flips, cuts, repeats, insertions, odd
    numbers."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0 if data:
                data[place % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                del data[place:]
            case 2:
                del data[place : place + rng.randrange(1, 64)]
            case 3:
                data[place:place] = rng.randbytes(rng.randrange(1, 64))
            case 4:
                data[place:place] = data[place : place + rng.randrange(1, 256)]
            case 5:
                data[place : place + 4] = rng.choice(
                    (b"\xff\xff\xff\xff", b"\x00" * 4, b"\xff\xff\xff\x7f")
                )
            case 6:
                data[place : place + 8] = rng.choice(
                    (b"\xff" * 8, b"\x00" * 8, b"\xff" * 7 + b"\x7f")
                )
    return bytes(data)


def changed(rng, tree):
    """A copy of nested dicts and lists in which one to three places are odd, gone, renamed or
    nested deeper."""
    for _ in range(rng.randint(1, 3)):
        tree = _change(rng, tree)
    return tree


def _change(rng, tree):
    if isinstance(tree, dict) and tree and rng.random() < 0.8:
        key = rng.choice(list(tree))
        match rng.randrange(8):
            case 0:
                return {name: value for name, value in tree.items() if name != key}
            case 1:
                return {
                    (rng.choice(ODD_VALUES[13:24]) if name == key else name): value
                    for name, value in tree.items()
                }
            case _:
                return {**tree, key: _change(rng, tree[key])}
    if isinstance(tree, list) and tree and rng.random() < 0.8:
        place = rng.randrange(len(tree))
        return [*tree[:place], _change(rng, tree[place]), *tree[place + 1 :]]
    if rng.random() < 0.1:
        deep = tree
        for _ in range(rng.choice((60, 2000))):
            deep = [deep]
        return deep
    return rng.choice(ODD_VALUES)


def json_bytes(tree):
    """A tree of odd values as JSON; one that is too deep for the writer, as JSON that is as
    deep."""
    try:
        return json.dumps(tree).encode(errors="surrogatepass")
    except (RecursionError, TypeError, ValueError):
        return b"[" * 3000 + b"]" * 3000
