"""Damage to files, made from a seed."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image as Pillow

CASES = 40
"""Of each kind of damage."""
WIDTH, HEIGHT = 64, 48
_EVIL = """
nan -nan inf -inf 1e308 -1e308 1e-320 1e39 0x10 1_000 -5 99999999999999999999 null 12,5 \u0663 \uff11\uff12 1e9 1.1e9
true 0 -0.0 +7 7. .5 1e 1e400 None [] {} '' -1e-9 2147483648 NaN Infinity
"""
EVIL = _EVIL.split()


def photograph(seed, size=(WIDTH, HEIGHT)):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Pillow.fromarray(coarse).resize(size, Pillow.Resampling.BICUBIC)


# --- damage to text ----------------------------------------------------------------------------------


def truncate(chance, content):
    return content[: chance.randrange(len(content))]


def flip(chance, content):
    changed = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def remove(chance, content):
    start = chance.randrange(len(content))
    return content[:start] + content[start + chance.randint(1, 60) :]


def repeat(chance, content):
    start = chance.randrange(len(content))
    return content[:start] + content[start : start + chance.randint(1, 200)] * chance.randint(2, 50) + content[start:]


def put_number(chance, content):
    """Put an evil value in place of some numbers."""
    places = list(re.finditer(rb"-?\d+(\.\d+)?", content))
    for match in sorted(chance.sample(places, min(len(places), chance.randint(1, 3))), key=lambda m: -m.start()):
        content = content[: match.start()] + chance.choice(EVIL).encode() + content[match.end() :]
    return content


def put_bytes(chance, content):
    start = chance.randrange(len(content) + 1)
    thing = chance.choice(
        [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J", "\u2028".encode(), b"\r\n\r\n", b"&b;", b"<"]
    )
    return content[:start] + thing + content[start:]


def swap_words(chance, content):
    words = re.split(rb"(\W+)", content)
    one, other = chance.randrange(len(words)), chance.randrange(len(words))
    words[one], words[other] = words[other], words[one]
    return b"".join(words)


TEXT = [truncate, flip, remove, repeat, put_number, put_bytes, swap_words]
