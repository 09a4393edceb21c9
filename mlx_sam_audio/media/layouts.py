"""Which channel lies where, and mono and stereo of any number of them."""

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..errors import SAMAudioError, note

# FFmpeg's names of places: F(ront) L(eft), S(ide) R(ight), T(op) F(ront) C(entre), ...
PLACE = re.compile(r"[BDFSTW]{1,2}([LR]?)C?|LFE2?")
SHARES = {"L": (1, 0), "R": (0, 1), "": (0.5**0.5, 0.5**0.5)}  # of a channel in left and right


def mono(pieces: Iterable) -> Iterator[tuple[np.ndarray, int]]:
    """Of pieces as `decoding.decoded` yields them, (T, channels): their mean (T,), and the rate."""
    for piece, rate, _ in pieces:
        with np.errstate(over="ignore", invalid="ignore"):  # which are refused in a sentence
            piece = piece.mean(axis=1)
        yield piece, rate


def stereo(pieces: Iterable, path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """The same in two channels, (T, 2). More are folded, with a note."""
    said = set()
    for piece, rate, names in pieces:
        if piece.shape[1] > 2:
            weights = folding(names)
            if weights is None:
                raise SAMAudioError(
                    f"{path} has {piece.shape[1]} channels and does not tell which of them are left"
                    ' and right: stereo="mono" (--mono) takes their mean'
                )
            if names not in said:
                said.add(names)
                down = -20 * np.log10(weights.max())
                note(
                    f"{path} has {len(names)} channels ({' '.join(names)}): they are folded to "
                    f"stereo, {down:.1f} dB down, so that they cannot clip"
                )
            with np.errstate(over="ignore", invalid="ignore"):
                piece = np.einsum("tc,cs->ts", piece, weights)  # in one order, always
        yield np.broadcast_to(piece, (len(piece), 2)), rate


@functools.cache
def folding(names: tuple[str, ...]) -> np.ndarray | None:
    """Channels of these names in left and right, (channels, 2) float32: what lies in the middle in
    both, 3 dB down; the sums are at most 1. None where a name is of no place."""
    places = [PLACE.fullmatch(name) for name in names]
    if not places or not all(places):
        return None
    weights = np.array([SHARES[place[1] or ""] for place in places], np.float32)
    return weights / weights.sum(axis=0).max()
