"""Sound activity: where a recording is not silent, and how well that agrees with spans.

Follows facebookresearch/sam-audio (sam_audio/ranking/sound_activity.py) and what it calls: pydub
and Python's audioop, whose 16-bit steps are kept, so that spans come out the same. Times of spans
are seconds, otherwise milliseconds.
"""

import math
from collections.abc import Sequence

import numpy as np

from ..errors import SAMAudioError

RATE = 24_000  # at which silence is looked for
WINDOW = 250  # the shortest silence
SEEK, PEAK_SEEK = 10, 100  # steps of the search for silence, and for the loudest window
METRICS = ("iou", "recall", "precision")


def agreement(
    wave: np.ndarray,
    sample_rate: int,
    spans: Sequence[tuple[float, float]],
    *,
    metric: str = "iou",
    threshold: float = -40,
    relative: bool = True,
) -> float:
    """How well the activity of `wave` (T,) agrees with `spans` (start, end).

    metric: "iou", "recall" (of the spans) or "precision" (of the activity), from 0 to 1 where spans
    do not overlap. threshold, relative: as in `activity`. Raises SAMAudioError.
    """
    if metric not in METRICS:
        raise SAMAudioError(f"there is no metric {metric!r}: choose from {', '.join(METRICS)}")
    heard = activity(wave, sample_rate, threshold=threshold, relative=relative)
    spans = np.array(spans, dtype=np.float64).reshape(-1, 2)
    starts = np.maximum(heard[:, None, 0], spans[:, 0])
    ends = np.minimum(heard[:, None, 1], spans[:, 1])
    shared = np.maximum(ends - starts, 0).sum()
    active, wanted = (np.diff(x).sum() for x in (heard, spans))
    whole = {"iou": active + wanted - shared, "recall": wanted, "precision": active}[metric]
    return float(shared / whole) if whole > 0 else 0.0


def activity(
    wave: np.ndarray, sample_rate: int, *, threshold: float = -40, relative: bool = True
) -> np.ndarray:
    """Spans (n, 2) of `wave` (T,) in seconds without a silence of a quarter of a second.

    threshold: decibels below which it is silent; relative to the loudest window, or to full scale.
    """
    samples = resample(to_pcm(wave), sample_rate)
    length = round(1000 * len(samples) / RATE)
    if length < WINDOW:
        return np.array([[0, length / 1000]])
    floor = 32768 * 10 ** (threshold / 20) * (peak(samples) if relative else 1)
    last = length - WINDOW
    places = np.unique([*range(0, last + 1, SEEK), last])
    silent = places[levels(samples, places) <= floor]
    # silences that touch are one
    starts = silent[np.diff(silent, prepend=-np.inf) > WINDOW]
    ends = silent[np.diff(silent, append=np.inf) > WINDOW] + WINDOW
    heard = np.stack([np.r_[0, ends], np.r_[starts, length]], axis=1)
    return heard[heard[:, 1] > heard[:, 0]] / 1000


def peak(samples: np.ndarray) -> float:
    """RMS of the loudest window of samples (T,) int16, 1 is full scale; 0 if none fits whole."""
    places = np.arange(0, round(1000 * len(samples) / RATE) - WINDOW + 1, PEAK_SEEK)
    return float(levels(samples, places).max(initial=0)) / 32768


def levels(samples: np.ndarray, places: np.ndarray) -> np.ndarray:
    """RMS of the windows of samples (T,) int16 that start at `places` (n,) milliseconds: (n,),
    each a whole number of 16-bit steps."""
    tail = np.zeros(RATE // 1000, np.int64)  # a length is rounded to milliseconds
    energy = np.cumsum(np.r_[0, np.square(samples, dtype=np.int64), tail])
    first, size = places * (RATE // 1000), WINDOW * RATE // 1000
    return np.floor(np.sqrt((energy[first + size] - energy[first]) / size))


def to_pcm(wave: np.ndarray) -> np.ndarray:
    """(T,) float32 -> int16, as a WAV file holds it."""
    scaled = np.round(np.asarray(wave, np.float32) * np.float32(32768))
    return scaled.clip(-32768, 32767).astype(np.int16)


def resample(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """(T,) int16 at `sample_rate` -> (T',) at RATE, by linear interpolation, cut to 16 bits."""
    divisor = math.gcd(sample_rate, RATE)
    step, parts = sample_rate // divisor, RATE // divisor  # an output is step / parts inputs later
    outputs = (len(samples) - 1) * parts // step + 1
    place = np.arange(outputs) * step
    after = -(-place // parts)
    back = after * parts - place  # how far before the input `after`, in parts
    wide = samples.astype(np.int64) * 2**16
    mixed = (wide[after - 1] * back + wide[after] * (parts - back)) / parts
    return (mixed.astype(np.int64) >> 16).astype(np.int16)
