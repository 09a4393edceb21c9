"""Spans that a predictor finds in a mixture's latents."""

from collections.abc import Callable, Sequence
from dataclasses import replace

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
    """The spans of each item, from latents (N, views, C) of so many samples: a sound is where it is
    heard in any of its views.

    windows: `window` and `overlap` in seconds, for recordings that are not to be heard at once.
    """
    config = part_of(predictor, "config")
    rates = networks.sample_rate, networks.hop_length
    if config is not None and (config.sample_rate, config.hop_length) != rates:
        raise SAMAudioError(
            f"the span predictor reads latents of {config.sample_rate} Hz and hop length "
            f"{config.hop_length}, this model's have {rates[0]} and {rates[1]}"
        )
    views = [i for i, each in enumerate(latents) for _ in range(each.shape[1])]
    words, lengths = [descriptions[i] for i in views], [samples[i] for i in views]
    found = predictor(
        mx.array(np.concatenate([each.swapaxes(0, 1) for each in latents])),
        words,
        samples=lengths,
        **windows,
    )
    if not is_rows(found) or len(found) != len(words):
        raise SAMAudioError(
            f"the span predictor returned {shown(found)}, not spans for each of "
            f"{len(words)} descriptions"
        )
    rows = [[] for _ in latents]
    for i, row in zip(views, found, strict=True):
        check_prompt(descriptions[i], row)
        rows[i].append(row if isinstance(row, tuple) else tuple(row))
    return [row[0] if len(row) == 1 else joined(row) for row in rows]


def joined(views: Sequence[tuple[Span, ...]]) -> tuple[Span, ...]:
    """Where a sound is in any view of a recording, as probably as where it is most so."""
    spans: list[Span] = []
    for span in sorted((span for row in views for span in row), key=lambda span: span.start):
        last = spans[-1] if spans else None
        if last and last.sign == span.sign and span.start <= last.end:
            spans[-1] = replace(last, end=max(last.end, span.end))
        else:
            spans.append(span)
    if not all(hasattr(row, "probabilities") for row in views):
        return tuple(spans)
    probabilities = np.max([row.probabilities for row in views], axis=0)
    return type(views[0])(spans, probabilities, views[0].frame_rate)


def part_of(predictor: Callable | None, name: str):
    """A `SpanPredictor`'s network or config, if it is one, or a functools.partial of one."""
    return getattr(getattr(predictor, "func", predictor), name, None)
