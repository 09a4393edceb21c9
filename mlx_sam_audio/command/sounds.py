"""What results are made of: targets, the rest and the recording, piece by piece, at any rate."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soxr

from ..engine.run import Run
from ..media import audio
from .names import Result


class Reader:
    """Takes pieces of any length from consecutive blocks (t,) or (2, t)."""

    def __init__(self, blocks: Iterable[np.ndarray]):
        self._blocks = iter(blocks)
        self._held: np.ndarray | None = None

    def take(self, samples: int | None = None) -> np.ndarray:
        """So many, or as many as there are, or all."""
        held = [] if self._held is None else [self._held]
        count = sum(block.shape[-1] for block in held)
        while samples is None or count < samples or not held:
            block = next(self._blocks, None)
            if block is None:
                break
            held.append(block)
            count += block.shape[-1]
        whole = np.concatenate(held, axis=-1)
        self._held = whole[..., whole.shape[-1] if samples is None else samples :]
        return whole[..., : whole.shape[-1] if samples is None else samples]


class Sounds:
    """The sounds of a run at a rate: each prompt's target, the rest, and the recording.

    Where the stems add up to the recording, they do so at any rate: the rest is the recording as it
    is at that rate, what lies above the model's highest frequency included, minus the targets.
    """

    def __init__(self, run: Run, rate: int, source: Path, adds: bool):
        (mixture,) = run.mixtures
        self.run, self.rate, self.channels, self._adds = run, rate, mixture.channels, adds
        self.source, self._same = mixture.source, rate == run.networks.sample_rate
        self._recording = self.source
        if not self._same:
            self._recording = audio.Recording(source, rate, self.channels)

    def pieces(self, heard: bool) -> Iterator[list[np.ndarray | None]]:
        """Consecutive pieces of each. heard: whether the recording is wanted."""
        if not self._same:
            yield from self._resampled()
            self._recording.check()  # it was read once only
            return
        reader = Reader(self._recording) if heard else None
        for stems in self._stems():
            yield [*stems, reader.take(stems[0].shape[-1]) if reader else None]
        if reader:
            reader.take()  # to its end, where it is known to be what was separated

    def _stems(self) -> Iterator[list[np.ndarray]]:
        for chunks in self.run.stems():
            yield [np.array(x) for x in (*(c.target for c in chunks), chunks[0].residual)]

    def _resampled(self) -> Iterator[list[np.ndarray]]:
        """As many samples as the recording has at that rate."""
        reader, streams = Reader(self._recording), []
        pieces = (stems[:-1] if self._adds else stems for stems in self._stems())
        for stems in itertools.chain(pieces, [None]):
            streams = streams or [self._stream() for _ in stems or ()]
            last, given = stems is None, stems or [silence(self.channels)] * len(streams)
            made = [resampled(stream, x, last) for stream, x in zip(streams, given, strict=True)]
            recording = reader.take(None if last else made[0].shape[-1])
            made = [fitted(x, recording.shape[-1]) for x in made]
            if self._adds:
                made.append(recording - sum(made))
            if recording.shape[-1]:
                yield [*made, recording]

    def _stream(self) -> soxr.ResampleStream:
        rate = self.run.networks.sample_rate
        return soxr.ResampleStream(rate, self.rate, self.channels, "float32", "VHQ")


def silence(channels: int) -> np.ndarray:
    """No samples at all."""
    return np.zeros((2, 0) if channels == 2 else 0, np.float32)


def resampled(stream: soxr.ResampleStream, samples: np.ndarray, last: bool) -> np.ndarray:
    """(t,) or (2, t) -> the same at another rate."""
    made = stream.resample_chunk(np.ascontiguousarray(samples.T), last)
    return np.ascontiguousarray(made.T)


def fitted(samples: np.ndarray, length: int) -> np.ndarray:
    """Cut or padded with silence: resamplers round lengths."""
    missing = max(length - samples.shape[-1], 0)
    return np.pad(samples[..., :length], [(0, 0)] * (samples.ndim - 1) + [(0, missing)])


def mixed(result: Result, sounds: Sequence[np.ndarray | None]) -> np.ndarray:
    """A result's sum of sounds; one of them alone as it is."""
    weights = (*result.targets, result.rest, result.recording)
    parts = [(weight, x) for weight, x in zip(weights, sounds, strict=True) if weight]
    if len(parts) == 1 and parts[0][0] == 1:
        return parts[0][1]
    return sum(np.float32(weight) * x for weight, x in parts)
