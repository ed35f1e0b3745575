"""Draws a pattern with some noise as a PGM on stdout: draw.py LABEL [SEED]."""

from __future__ import annotations

import sys

import numpy as np
from images import LABELS, SIDE, patterns


def drawn(label: str, seed: int = 0) -> bytes:
    """Return a picture of a pattern, beginning anywhere, as a binary PGM."""
    chance = np.random.default_rng(seed)
    places = patterns()[LABELS.index(label)]
    pattern = places[chance.integers(len(places))].reshape(SIDE, SIDE)
    grey = 128 + 100 * np.sign(pattern) + chance.normal(0, 20, (SIDE, SIDE))
    return b"P5\n%d %d\n255\n" % (SIDE, SIDE) + grey.clip(0, 255).astype(np.uint8).tobytes()


if __name__ == "__main__":
    sys.stdout.buffer.write(drawn(sys.argv[1], int((sys.argv[2:] or ["0"])[0])))
