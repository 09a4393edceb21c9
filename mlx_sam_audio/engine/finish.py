"""From latents to the stems of one recording: decode, trim, subtract, look at, silence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import SAMAudioError, check_finite
from ..models import chunks
from ..models.dacvae import DACVAE
from ..prompts import Span
from .mixture import WRONG_LENGTH, Mixture
from .presence import Meter, gated
from .progress import Watch
from .separation import Chunk


@dataclass(frozen=True)
class Decoder:
    """Decodes states: `stems` of each row, `frames` at a time."""

    codec: DACVAE
    stems: int  # 1: the target alone
    frames: int
    watch: Watch

    def __call__(
        self, states: Iterator[np.ndarray], message: mx.array | None
    ) -> Iterator[mx.array]:
        """Consecutive states (n, R, 2C) -> consecutive waveforms (R, stems, t). message (2R, 16):
        of target and residual of each row."""
        stems = self.stems

        def latents() -> Iterator[mx.array]:
            for state in states:
                count, rows, channels = state.shape
                parts = mx.array(state).reshape(count, rows, 2, channels // 2)[:, :, :stems]
                yield parts.reshape(count, rows * stems, -1).swapaxes(0, 1)

        if message is not None:
            message = message.reshape(-1, 2, message.shape[-1])[:, :stems].flatten(0, 1)
        for audio in chunks.decode(self.codec, latents(), message, self.frames):
            check_finite(audio, "the codec's output")
            self.watch.advance("decode", audio.size // self.codec.hop_length)
            yield audio.reshape(-1, stems, audio.shape[1])


@dataclass(frozen=True, eq=False)
class Finish:
    """What is done with a recording's stems.

    predicted: whether the spans were, and say where the sound is.
    """

    mixture: Mixture
    subtract: bool
    gate: bool
    spans: tuple[Span, ...]
    predicted: bool

    def __call__(self, stems: Iterator[mx.array]) -> Iterator[Chunk]:
        """Consecutive waveforms (2, t), or (1, t) of the target, as long as the recording or
        somewhat longer -> chunks."""
        rate = self.mixture.sample_rate
        stems = self._subtracted(self._trimmed(stems))
        predicted = self.spans if self.predicted else None
        if self.gate:
            pairs = (np.array(pair) for pair in stems)
            for seen, (target, residual) in gated(pairs, rate, predicted):
                stem = mx.array(target), mx.array(residual)
                yield Chunk(*stem, rate, self.spans, (seen,), start=seen.start)
            return
        meter, done = Meter(rate, predicted), 0
        for pair in stems:
            start, done = done, done + pair.shape[1]
            seen = list(meter.take(*np.array(pair)))
            seen += meter.end() if done == self.mixture.samples else ()
            presence = tuple(row for row, _ in seen)
            target, residual = pair
            mx.eval(target, residual)  # in this thread, whoever may use them
            yield Chunk(target, residual, rate, self.spans, presence, start=start / rate)

    def _trimmed(self, stems: Iterator[mx.array]) -> Iterator[mx.array]:
        done = 0
        for piece in stems:
            piece = piece[:, : self.mixture.samples - done]
            done += piece.shape[1]
            if piece.size:
                yield piece

    def _subtracted(self, stems: Iterator[mx.array]) -> Iterator[mx.array]:
        """With mixture - target as residual, if that is wanted."""
        if not self.subtract:
            yield from stems
            return
        blocks, held = self.mixture.blocks(), np.zeros(0, np.float32)
        for piece in stems:
            count = piece.shape[1]
            while len(held) < count:
                block = next(blocks, None)
                if block is None:
                    raise SAMAudioError(WRONG_LENGTH)
                held = np.concatenate([held, block])
            yield mx.stack([piece[0], mx.array(held[:count]) - piece[0]])
            held = held[count:]
        for _ in blocks:  # to its end, where it is found if the file changed
            pass


def joined(chunks: Sequence[Chunk]) -> dict:
    """The fields of all of a recording's chunks, as of one."""
    target, residual = (
        mx.concatenate([getattr(chunk, name) for chunk in chunks])
        for name in ("target", "residual")
    )
    mx.eval(target, residual)
    presence = tuple(row for chunk in chunks for row in chunk.presence)
    return dict(target=target, residual=residual, presence=presence)
