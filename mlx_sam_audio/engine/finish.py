"""From latents to the stems of one recording: decode, trim, share, look at, silence."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import SAMAudioError, check_finite, note
from ..models import chunks
from ..models.dacvae import DACVAE
from ..settings import Settings
from .group import SINGLE, Group
from .item import Item
from .mixture import WRONG_LENGTH, Mixture
from .presence import Meter, Window, gated
from .progress import Watch
from .separation import Chunk
from .share import power, shares

HOLLOW = 0.2  # of both channels' power: a bin of which their mean has less is not heard in it
MUCH = 0.05  # of the energy, from which on that must be said
ALIKE = 0.9  # correlation of two stems


@dataclass(frozen=True)
class Decoder:
    """Decodes states: `stems` of target and residual, `frames` at a time."""

    codec: DACVAE
    stems: slice
    frames: int
    watch: Watch
    group: Group = SINGLE

    def __call__(
        self, states: Iterator[np.ndarray], message: mx.array | None
    ) -> Iterator[mx.array]:
        """Consecutive states (n, R, 2C) -> consecutive waveforms (R, stems, t). message (R, 2, 16):
        of target and residual of each row."""

        def latents() -> Iterator[mx.array]:
            for state in states:
                count, rows, channels = state.shape
                parts = mx.array(state).reshape(count, rows, 2, channels // 2)[:, :, self.stems]
                yield parts.reshape(count, -1, channels // 2).swapaxes(0, 1)

        stems = len(range(2)[self.stems])
        if message is not None:
            message = message[:, self.stems].flatten(0, 1)
        for audio in chunks.decode(self.codec, latents(), message, self.frames, self.group):
            check_finite(audio, "the codec's output")
            self.watch.advance("decode", audio.size // self.codec.hop_length)
            yield audio.reshape(-1, stems, audio.shape[1])


@dataclass(frozen=True, eq=False)
class Finish:
    """What is done with the stems of a recording's K prompts."""

    prompts: Sequence[Item]
    settings: Settings

    @property
    def mixture(self) -> Mixture:
        return self.prompts[0].mixture

    def __call__(self, waves: Iterable[mx.array]) -> Iterator[tuple[Chunk, ...]]:
        """Consecutive waveforms (K * views, stems, t), as long as the recording or somewhat longer
        -> a chunk for each prompt."""
        rate, done = self.mixture.sample_rate, 0
        predicted = [item.spans if item.predicted else None for item in self.prompts]
        meter = Meter(rate, predicted, self.settings.absent)
        pieces = self._stems(self._trimmed(waves))
        if len(self.prompts) > 1:
            pieces = self._compared(pieces)
        if self.settings.gate:
            pieces = (tuple(map(np.array, piece)) for piece in pieces)
            for seen in gated(pieces, meter):
                stems = mx.array(seen.targets), mx.array(seen.residuals)
                yield self._chunks(*stems, [seen], seen.presences[0].start)
            return
        for targets, residuals in pieces:
            start, done = done, done + targets.shape[-1]
            seen = list(meter.take(np.array(targets), np.array(residuals)))
            seen += meter.end() if done == self.mixture.samples else ()
            yield self._chunks(targets, residuals, seen, start / rate)

    def _chunks(
        self, targets: mx.array, residuals: mx.array, seen: Sequence[Window], start: float
    ) -> tuple[Chunk, ...]:
        if self.mixture.channels == 1:
            targets, residuals = targets[:, 0], residuals[:, 0]
        targets, residuals = [*targets], [*residuals]
        mx.eval(targets, residuals)  # in this thread, whoever may use them
        if len(residuals) < len(targets):
            residuals *= len(targets)
        return tuple(
            Chunk(
                target,
                residual,
                self.mixture.sample_rate,
                item.spans,
                tuple(window.presences[k] for window in seen),
                start=start,
            )
            for k, (item, target, residual) in enumerate(
                zip(self.prompts, targets, residuals, strict=True)
            )
        )

    def _trimmed(self, waves: Iterable[mx.array]) -> Iterator[mx.array]:
        done = 0
        for piece in waves:
            piece = piece[..., : self.mixture.samples - done]
            done += piece.shape[-1]
            if piece.size:
                yield piece

    def _stems(self, waves: Iterator[mx.array]) -> Iterator[tuple[mx.array, mx.array]]:
        """Targets (K, C, t), and the residual of each, or one (1, C, t) of all."""
        if self.settings.shares:
            yield from self._shares(waves)
        elif self.settings.residual == "model":
            for wave in waves:
                yield wave[:, :1], wave[:, 1:]
        else:
            subtracts = self.settings.residual == "subtract"
            for mixture, wave in self._beside(waves):
                made = wave[:, :1] if subtracts else wave[:, -1:]
                rest = mx.array(mixture) - made
                yield (made, rest) if subtracts else (rest, made)

    def _shares(self, waves: Iterator[mx.array]) -> Iterator[tuple[mx.array, mx.array]]:
        mixture, hollow = self.mixture, Hollow()
        heard = (
            (samples, mx.unflatten(wave, 0, (-1, mixture.views)).swapaxes(1, 2))
            for samples, wave in self._beside(waves)
        )
        looks = [hollow.add] if mixture.stereo == "mid" else []
        for stems in shares(heard, mixture.sample_rate, mixture.channels, *looks):
            yield stems[:-1], stems[-1:]
        hollow.tell(mixture)

    def _compared(
        self, pieces: Iterator[tuple[mx.array, mx.array]]
    ) -> Iterator[tuple[mx.array, mx.array]]:
        """The same, with a note of targets that are much the same sound."""
        products = np.zeros((len(self.prompts), len(self.prompts)))
        for targets, residuals in pieces:
            rows = np.array(targets.flatten(1), dtype=np.float64)
            products += rows @ rows.T
            yield targets, residuals
        levels = np.sqrt(np.diag(products)) + 1e-20
        for i, k in np.argwhere(np.triu(products / np.outer(levels, levels) > ALIKE, k=1)):
            pair = " and ".join(repr(self.prompts[one].description) for one in (i, k))
            note(f"{pair} are much the same sound here: leave out one, or tell them apart by spans")

    def _beside(self, waves: Iterator[mx.array]) -> Iterator[tuple[np.ndarray, mx.array]]:
        """Every piece with the samples (channels, t) that it was made of."""
        blocks, held = self.mixture.blocks(), np.zeros((self.mixture.channels, 0), np.float32)
        for wave in waves:
            count = wave.shape[-1]
            while held.shape[1] < count:
                block = next(blocks, None)
                if block is None:
                    raise SAMAudioError(WRONG_LENGTH)
                held = np.concatenate([held, block], axis=1)
            yield held[:, :count], wave
            held = held[:, count:]
        for _ in blocks:  # to its end, where it is found if the file changed
            pass


@dataclass
class Hollow:
    """How much of a stereo recording the mean of its channels does not hold."""

    whole: float = 0.0
    missed: float = 0.0

    def add(self, x: mx.array) -> None:
        """Spectra (2, n, f)."""
        both, mid = power(x).mean(axis=0), power(x.mean(axis=0))
        self.whole += both.sum().item()
        self.missed += mx.where(mid < HOLLOW * both, both, 0).sum().item()

    def tell(self, mixture: Mixture) -> None:
        if self.missed > MUCH * self.whole:
            note(
                f"{100 * self.missed / self.whole:.0f} % of the energy of {mixture} lies where "
                "left and right cancel, which their mid does not hold: let both be heard"
            )


def joined(pieces: Sequence[tuple[Chunk, ...]]) -> list[dict]:
    """For each prompt, the fields of all of its chunks as of one. A residual that the prompts share
    is one array."""
    whole: dict[int, mx.array] = {}

    def join(parts: Sequence[mx.array]) -> mx.array:
        return whole.setdefault(id(parts[0]), mx.concatenate(parts, axis=-1))

    rows = [
        dict(
            target=join([chunk.target for chunk in chunks]),
            residual=join([chunk.residual for chunk in chunks]),
            presence=tuple(row for chunk in chunks for row in chunk.presence),
        )
        for chunks in zip(*pieces, strict=True)
    ]
    mx.eval(*whole.values())
    return rows
