"""Ways to damage a file: its bytes, or the values of a YAML document."""

import copy
import string
import struct

import yaml

INTERESTING = [b"\0", b"\xff" * 4, b"\xff" * 8, b"\x7f", b"-1", b"1e999", b"null", b"[]", b"{}"]
INTERESTING += [
    b'"',
    b"\n",
    b"\x1b[2J",
    b"\x80" * 3,
    b"&a [*a]",
    b"99999999999999999999",
    b"\0" * 8,
]
VALUES = [None, True, 0, 3, -1, 1.5, 10**400, float("nan"), float("-inf"), "", "x", "1e3", "*", "~"]
VALUES += ["\0", "..", "/dev/zero", "a" * 5000, "a > 1.2.3", "float64", "O", "f4,f4", [], {}]
VALUES += [["a"], [[1]], [None], [4, 4], {"name": 3}, {"name": "a", "low": "x"}, {1: 2}]
PLAIN = (".yaml", ".json", ".jsonl", ".xml", "")


def damaged(content, suffix, generator):
    """Return the content of a file after a few changes."""
    if suffix == ".yaml" and generator.random() < 0.5:
        return exchange(content, generator)
    return mutate(content, generator, suffix in PLAIN)


def exchange(content, generator):
    """Return a YAML document, some of its values or keys exchanged for others."""
    document = [yaml.safe_load(content)]
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        places = list(_places(document))
        node, key = generator.choice(places)
        other_node, other_key = generator.choice(places)
        other = copy.deepcopy(generator.choice((*VALUES, other_node[other_key])))
        if isinstance(node, dict) and generator.random() < 0.1:
            node[other if isinstance(other, str | int | float | None) else "key"] = node.pop(key)
        else:
            node[key] = [other] if generator.random() < 0.2 else other
    return yaml.safe_dump(document[0]).encode()


def _places(node):
    """Yield every (list or mapping, index or key) within a document."""
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(inner):
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)


def mutate(content, generator, text):
    """Return `content` after one to eight changes."""
    content = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 3, 8))):
        at = generator.randrange(len(content) + 1) if content else 0
        kind = generator.randrange(7)
        if kind == 0 and content:
            content[at % len(content)] ^= 1 << generator.randrange(8)
        elif kind == 1 and content:
            content[at % len(content)] = generator.randrange(256)
        elif kind == 2:
            piece = generator.choice(INTERESTING)
            content[at : at + (len(piece) if generator.random() < 0.7 else 0)] = piece
        elif kind == 3:
            del content[at : at + generator.choice((1, 4, 30))]
        elif kind == 4:
            piece = content[at : at + generator.choice((1, 8, 60))]
            content[at:at] = piece
        elif kind == 5 and generator.random() < 0.3:
            del content[at:]
        elif text:
            letters = generator.choices(string.printable, k=generator.randrange(1, 6))
            content[at : at + 1] = "".join(letters).encode()
        else:
            size = generator.choice((2, 4, 8))
            number = generator.choice((0, 1, 2**31, 2**63, 2**32 - 1, generator.getrandbits(64)))
            packed = struct.pack(generator.choice("<>") + "Q", number % 2**64)
            content[at : at + size] = packed[:size]
    return bytes(content)
