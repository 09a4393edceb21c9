"""Spans that a predictor finds in a mixture's latents."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from ..errors import SAMAudioError, shown
from ..kinds import anything, is_list
from ..prompts import Span, check_prompt
from .networks import Networks

is_rows = is_list(anything)


def predicted(
    networks: Networks,
    predictor: Callable,
    latents: Sequence[np.ndarray],
    samples: Sequence[int],
    descriptions: Sequence[str],
    **windows: float,
) -> list[tuple[Span, ...]]:
    """The spans of each item, from latents (N, C) of so many samples.

    windows: `window` and `overlap` in seconds, for recordings that are not to be heard at once.
    """
    config = part_of(predictor, "config")
    rates = networks.sample_rate, networks.hop_length
    if config is not None and (config.sample_rate, config.hop_length) != rates:
        raise SAMAudioError(
            f"the span predictor reads latents of {config.sample_rate} Hz and hop length "
            f"{config.hop_length}, this model's have {rates[0]} and {rates[1]}"
        )
    batch = mx.array(np.stack(latents))
    found = predictor(batch, list(descriptions), samples=list(samples), **windows)
    if not is_rows(found) or len(found) != len(descriptions):
        raise SAMAudioError(
            f"the span predictor returned {shown(found)}, not spans for each of "
            f"{len(descriptions)} descriptions"
        )
    for description, row in zip(descriptions, found, strict=True):
        check_prompt(description, row)
    return [row if isinstance(row, tuple) else tuple(row) for row in found]


def part_of(predictor: Callable | None, name: str):
    """A `SpanPredictor`'s network or config, if it is one, or a functools.partial of one."""
    return getattr(getattr(predictor, "func", predictor), name, None)
