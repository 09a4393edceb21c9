"""What a page draws and plays of a sound, from any second on: peaks, spectra, samples.

Sounds are wav files here (see `intake`), so that one can read from any sample on. What needs all of
a sound is measured once, and lies beside it.
"""

import math
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from ..files import whole
from ..media.spectrogram import FLOOR
from .refusal import Refusal, invalid

BIN = 256  # samples of an outline's step
MOST_POINTS, MOST_COLUMNS = 10_000, 4_000
WINDOW = 0.032  # seconds of a spectrum, about
LONGEST = 30.0  # seconds of samples in one answer
PIECE = 2**18  # samples read at a time; whole steps
measuring = threading.Lock()  # who asks for the same waits, rather than measure it, too


class Outline(NamedTuple):
    """low, high: of the channels' mean, step by step; peak: its largest absolute value; loudest:
    the largest absolute sample; top: dB of the loudest point of the spectrogram."""

    low: np.ndarray
    high: np.ndarray
    peak: float
    loudest: float
    top: float


class Range(NamedTuple):
    """Samples [start, stop) of a sound, and what is asked for of them."""

    start: int
    stop: int
    rate: int
    samples: int  # of the whole sound


def outline(path: Path) -> Outline:
    """Of a whole sound."""
    beside = path.with_name(f"{path.name}.npz")
    with measuring:
        if not beside.exists():
            measured = measure(path)
            with whole(beside) as (part,), open(part, "wb") as file:
                np.savez(file, **measured._asdict())
    with np.load(beside) as found:
        low, high, *numbers = (found[name] for name in Outline._fields)
    return Outline(low, high, *map(float, numbers))


def measure(path: Path) -> Outline:
    low, high, loudest = [], [], 0.0
    with soundfile.SoundFile(path) as file:
        while len(block := file.read(PIECE, dtype="float32", always_2d=True)):
            loudest = max(loudest, float(np.abs(block).max()))
            mean = block.mean(axis=1)
            starts = np.arange(0, len(mean), BIN)
            low.append(np.minimum.reduceat(mean, starts))
            high.append(np.maximum.reduceat(mean, starts))
    low, high = np.concatenate(low or [[]]), np.concatenate(high or [[]])
    peak = max(float(-low.min(initial=0)), float(high.max(initial=0)))
    with soundfile.SoundFile(path) as file:
        everything = Range(0, file.frames, file.samplerate, file.frames)
    top = float(levels(path, everything, 1200).max(initial=FLOOR))
    return Outline(low, high, peak, loudest, top)


def stretch(path: Path, start: float | None, end: float | None) -> Range:
    """The seconds that are asked for, as samples; the end is cut to the sound's."""
    with soundfile.SoundFile(path) as file:
        rate, samples = file.samplerate, file.frames
    first = 0 if start is None else round(start * rate)
    last = samples if end is None else min(round(end * rate), samples)
    if not 0 <= first < last:
        raise invalid(f"from and to are seconds of the sound, which lasts {samples / rate:g}")
    return Range(first, last, rate, samples)


def peaks(path: Path, part: Range, points: int) -> dict:
    """The lowest and highest value of the channels' mean in each of so many equal pieces."""
    seen, count = outline(path), part.stop - part.start
    points = min(points, count)
    if count < 4 * BIN * points:
        low = high = read(path, part.start, count).mean(axis=1)
        edges = np.arange(points) * count // points
    else:
        low, high = (row[part.start // BIN : -(-part.stop // BIN)] for row in (seen.low, seen.high))
        edges = np.arange(points) * len(low) // points
    return {
        "from": part.start / part.rate,
        "to": part.stop / part.rate,
        "points": points,
        "min": np.minimum.reduceat(low, edges).round(5).tolist(),
        "max": np.maximum.reduceat(high, edges).round(5).tolist(),
        "peak": seen.peak,
    }


def spectrogram(
    path: Path, part: Range, columns: int, top: float | None
) -> tuple[bytes, dict[str, str]]:
    """A byte for each of columns and bins, and what the headers tell of them."""
    top = max(outline(path).top, FLOOR) if top is None else top
    found = levels(path, part, columns)
    scaled = np.clip((found - top - FLOOR) * 255 / -FLOOR, 0, 255)
    told = {"columns": found.shape[0], "bins": found.shape[1], "top": round(top, 3)}
    told["nyquist"] = part.rate / 2
    return scaled.round().astype(np.uint8).tobytes(), headers(told)


def levels(path: Path, part: Range, columns: int) -> np.ndarray:
    """Log power (columns, bins), as `spectrogram.decibels`, of windows spread over a part: only
    they are read, so that an hour takes no longer than a second. Not more than four overlap."""
    size = 2 ** round(np.log2(WINDOW * part.rate))
    count = part.stop - part.start
    columns = max(min(columns, 4 * count // size), 1)
    window = np.hanning(size).astype(np.float32)
    found = np.empty((columns, size // 2 + 1), np.float32)
    with soundfile.SoundFile(path) as file:
        for i in range(columns):
            first = part.start + (2 * i + 1) * count // (2 * columns) - size // 2
            before = max(-first, 0)
            file.seek(max(first, 0))
            piece = file.read(size - before, dtype="float32", always_2d=True)
            piece = np.pad(piece, ((before, size - before - len(piece)), (0, 0)))
            spectra = np.fft.rfft(piece.T * window)
            found[i] = np.square(np.abs(spectra)).mean(axis=0)
    return 10 * np.log10(found / window.sum() ** 2 + 1e-12)


def samples(path: Path, part: Range) -> tuple[bytes, dict[str, str]]:
    """Samples of all channels, one after the other, and what the headers tell of them."""
    if part.stop - part.start > LONGEST * part.rate:
        raise Refusal(400, "too_long", f"at most {LONGEST:g} seconds of samples come at once", "to")
    found = read(path, part.start, part.stop - part.start)
    told = dict(rate=part.rate, channels=found.shape[1], start=part.start, samples=part.samples)
    return found.astype("<f4").tobytes(), headers(told)


def read(path: Path, start: int, count: int) -> np.ndarray:
    """(count, channels) float32."""
    with soundfile.SoundFile(path) as file:
        file.seek(start)
        return file.read(count, dtype="float32", always_2d=True)


def headers(told: dict[str, object]) -> dict[str, str]:
    return {f"X-{name.capitalize()}": str(value) for name, value in told.items()}


def number(query, name: str, default: float | None, most: float = math.inf) -> float | None:
    """A number of a request's query."""
    if name not in query:
        return default
    try:
        value = float(query[name])
    except ValueError:
        value = math.nan
    if not -most <= value <= most or math.isinf(value):
        raise invalid(f"{name} must be a number, not {query[name]!r}", name)
    return value


def whole_number(query, name: str, default: int, most: int) -> int:
    value = number(query, name, default)
    if value != int(value) or not 1 <= value <= most:
        raise invalid(f"{name} must be a whole number from 1 to {most}", name)
    return int(value)
