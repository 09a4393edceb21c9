"""From latents to the stems of one recording: decode, trim, subtract, look at, silence."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import SAMAudioError, check_finite
from ..models import chunks
from ..models.dacvae import DACVAE
from ..prompts import Span
from ..settings import Settings
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
    """What is done with a recording's stems. predicted: its spans, where they were predicted."""

    mixture: Mixture
    settings: Settings
    spans: tuple[Span, ...]
    predicted: tuple[Span, ...] | None

    def __call__(self, stems: Iterable[mx.array]) -> Iterator[Chunk]:
        """Consecutive waveforms (2, t), or (1, t) of the target, as long as the recording or
        somewhat longer -> chunks."""
        rate, done = self.mixture.sample_rate, 0
        meter = Meter(rate, self.predicted, self.settings.absent)
        stems = self._subtracted(self._trimmed(stems))
        if self.settings.gate:
            for seen, (target, residual) in gated(map(np.array, stems), meter):
                stem = mx.array(target), mx.array(residual)
                yield Chunk(*stem, rate, self.spans, (seen,), start=seen.start)
            return
        for target, residual in stems:
            mx.eval(target, residual)  # in this thread, whoever may use them
            start, done = done, done + len(target)
            seen = list(meter.take(np.array(target), np.array(residual)))
            seen += meter.end() if done == self.mixture.samples else ()
            presence = tuple(row for row, _ in seen)
            yield Chunk(target, residual, rate, self.spans, presence, start=start / rate)

    def _trimmed(self, stems: Iterable[mx.array]) -> Iterator[mx.array]:
        done = 0
        for piece in stems:
            piece = piece[:, : self.mixture.samples - done]
            done += piece.shape[1]
            if piece.size:
                yield piece

    def _subtracted(self, stems: Iterator[mx.array]) -> Iterator[mx.array]:
        """With mixture - target as residual, if that is wanted."""
        if not self.settings.subtracts:
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
