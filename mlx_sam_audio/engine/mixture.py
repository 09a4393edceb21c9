"""What is separated: a recording's samples and latents."""

import os
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Annotated, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..calls import go_on
from ..errors import SAMAudioError, note
from ..files import sha256
from ..kinds import Kind, is_path
from ..media import audio as audio_files
from ..media.decoding import BLOCK
from ..models import chunks
from ..settings import digest
from . import memory
from .group import SINGLE, Group
from .networks import Networks, weight_bytes
from .progress import Tell, Watch

CLIP = 30.0  # seconds
WRONG_LENGTH = "the file is not as long as its header says: convert it to wav"


class Hearing(NamedTuple):
    """How a recording is to be heard: `Settings.stereo`, and the rate of samples in an array, if it
    is not the model's."""

    stereo: str = "mono"
    sample_rate: int | None = None


class Mixture:
    """A recording, encoded once for any number of prompts; `SAMAudio.encode` makes it.

    samples: how many there are, at the model's rate; len(): how many latent frames; channels: 1, or
    2 in stereo; views: what the model hears of them, each channel or their mean. It holds latents
    of every view; samples are read from the file again where they are needed.
    """

    def __init__(
        self, networks: Networks, audio: "Audio", hearing: Hearing, streaming: bool = False
    ):
        """streaming: believe the file's header, rather than count what lasts long to count."""
        self.codec, self.sample_rate = networks.network.audio_codec, networks.sample_rate
        self.stereo, self.channels = hearing.stereo, 1 if hearing.stereo == "mono" else 2
        if isinstance(audio, (str, os.PathLike)):
            if hearing.sample_rate is not None:
                raise SAMAudioError("sample_rate= is an array's: a file tells its own")
            audio = audio_files.Recording(audio, self.sample_rate, self.channels)
            told = audio_files.length(audio, self.sample_rate) if streaming else None
            self.samples = told or audio.samples
            wide = self.channels > 1 and audio_files.channels(audio) > 1
        else:
            given = as_samples(audio, hearing.sample_rate or self.sample_rate)
            audio, wide = mixed(given, self.channels), len(given) > 1
            if hearing.sample_rate is not None:
                audio = audio_files.resample(audio, hearing.sample_rate, self.sample_rate)
            self.samples = audio.shape[1]
        self.source = audio  # a Recording, or samples (channels, T)
        self.views = 2 if self.stereo == "both" and wide else 1
        shape = networks.frames(self.samples), self.views, networks.config.codec.codebook_dim
        self._latents = np.zeros(shape, np.float32)
        self._pieces, self._done = None, 0

    @classmethod
    def of(
        cls,
        networks: Networks,
        audio: "Audio",
        hearing: Hearing,
        streaming: bool = False,
        one_piece: bool = False,
    ) -> "Mixture":
        """Of audio, or a mixture that this model encoded. one_piece: is it to be solved as one?"""
        if isinstance(audio, Mixture):
            audio.check(networks, hearing)
            mixture = audio
        else:
            mixture = cls(networks, audio, hearing, streaming)
        limit, rate = networks.config.transformer.max_positions, networks.sample_rate
        if one_piece and len(mixture) > limit:
            raise SAMAudioError(
                f"{mixture} lasts {mixture.samples / rate:.0f} s, more than the "
                f"{limit * networks.hop_length / rate:.0f} s the model takes in one piece: use "
                "separate_long()"
            )
        if one_piece and mixture.samples > CLIP * rate:
            note(
                f"{mixture} is seen at once, as by the reference, which suits clips: for long "
                "recordings separate_long() is better"
            )
        return mixture

    def check(self, networks: Networks, hearing: Hearing) -> None:
        """Raises SAMAudioError if it cannot stand for what is asked."""
        if self.codec is not networks.network.audio_codec:
            raise SAMAudioError("this mixture was encoded by another model: encode it by this one")
        if self.stereo != hearing.stereo:
            raise SAMAudioError(
                f'this mixture was encoded with stereo="{self.stereo}": encode it with '
                f'stereo="{hearing.stereo}"'
            )
        if hearing.sample_rate is not None:
            raise SAMAudioError("sample_rate= is an array's: give it to encode()")

    def __len__(self) -> int:
        return len(self._latents)

    @property
    def encoded(self) -> bool:
        return self._done == len(self)

    def __str__(self) -> str:
        return "the audio" if isinstance(self.source, np.ndarray) else str(self.source)

    def blocks(self) -> Iterator[np.ndarray]:
        """Consecutive pieces (channels, t) of the samples."""
        pieces, size = self.source, BLOCK
        if isinstance(pieces, np.ndarray):
            pieces = np.split(pieces, range(size, self.samples, size), axis=1)
        for piece in pieces:
            go_on()
            yield piece.reshape(self.channels, -1)

    def heard(self) -> Iterator[np.ndarray]:
        """The same as the model hears it, (views, t)."""
        for block in self.blocks():
            yield block if len(block) == self.views else block.mean(axis=0, keepdims=True)

    def waves(self) -> np.ndarray:
        """All that the model hears, (views, T) float32."""
        if isinstance(self.source, np.ndarray) and self.views == self.channels:
            return self.source
        return np.concatenate(list(self.heard()), axis=1)

    def encode(self, frames: int, watch: Watch, group: Group = SINGLE) -> None:
        """Encode so many frames at a time, when somebody asks for them."""
        if self._pieces is None:
            encode = self._encode if group.size == 1 else partial(self._shared, group)
            self._pieces = encode(self.heard(), frames, watch)

    def _encode(
        self, blocks: Iterable[np.ndarray], frames: int, watch: Watch
    ) -> Iterator[np.ndarray]:
        """Consecutive latents (n, views, C) of blocks of samples (views, t)."""
        for latents, _ in chunks.encode(self.codec, blocks, frames):
            piece = np.array(latents.astype(mx.float32)).swapaxes(0, 1)
            watch.advance("encode", piece.shape[0] * piece.shape[1])
            yield piece

    def _shared(
        self, group: Group, blocks: Iterable[np.ndarray], frames: int, watch: Watch
    ) -> Iterator[np.ndarray]:
        """All latents at once, of which each process of a group encodes some pieces."""

        def fill(latents: np.ndarray) -> None:
            done, start = 0, 0
            for piece, samples in chunks.encode(self.codec, blocks, frames, group):
                end, done = min(start + frames, len(self)), done + samples
                if done > self.samples:
                    break
                if piece is not None:
                    latents[start:end] = np.array(piece.astype(mx.float32)).swapaxes(0, 1)
                watch.advance("encode", (end - start) * self.views)
                start = end
            if done != self.samples:
                raise SAMAudioError(WRONG_LENGTH)

        yield group.joined(self._latents.shape, fill)

    def __getitem__(self, cut: slice) -> np.ndarray:
        """Latents (n, views, C) of some frames."""
        _, stop, _ = cut.indices(len(self))
        while self._done < stop:
            piece = next(self._pieces, None)
            if piece is None or self._done + len(piece) > len(self):
                raise SAMAudioError(WRONG_LENGTH)
            self._latents[self._done : self._done + len(piece)] = piece
            self._done += len(piece)
            if self.encoded and next(self._pieces, None) is not None:
                raise SAMAudioError(WRONG_LENGTH)
        return self._latents[cut]

    def padded(self, samples: int, frames: int, watch: Watch) -> np.ndarray:
        """The latents (N, views, C) of this recording among longer ones in a batch, which the
        reference pads with silence before it encodes them. frames: encoded at a time."""
        if samples == self.samples:
            return self[:]
        waves = np.pad(self.waves(), ((0, 0), (0, samples - self.samples)))
        return np.concatenate(list(self._encode([waves], frames, watch)))

    def fingerprint(self) -> str:
        """The same on any machine."""
        return (digest if isinstance(self.source, np.ndarray) else sha256)(self.source)


def is_audio(value: object) -> bool:
    return is_path(value) or isinstance(value, (np.ndarray, mx.array, Mixture))


Audio = Annotated[
    str | os.PathLike[str] | np.ndarray | mx.array | Mixture,
    Kind(is_audio, "a path, or an array of samples, or a Mixture"),
]


def as_samples(audio: np.ndarray | mx.array, sample_rate: int) -> np.ndarray:
    """(T,) or (channels, T) -> (channels, T) float32, at least one sample."""
    if isinstance(audio, mx.array) and audio.dtype == mx.bfloat16:  # which numpy lacks
        audio = audio.astype(mx.float32)
    wave = np.asarray(audio)
    if not np.issubdtype(wave.dtype, np.floating):
        raise SAMAudioError(f"samples must be floating-point numbers, -1 to 1, not {wave.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        wave = np.array(wave, dtype=np.float32)
    wave = wave[None] if wave.ndim == 1 else wave
    if wave.ndim != 2 or not 0 < wave.shape[0] <= max(wave.shape[1], 1):
        raise SAMAudioError(
            f"audio must be (T,) or (channels, T) at {sample_rate} Hz, not {np.shape(audio)}"
        )
    if wave.shape[1] == 0:
        raise SAMAudioError("the audio holds no samples")
    return audio_files.sound(wave, "the audio")


def mixed(samples: np.ndarray, channels: int) -> np.ndarray:
    """(any channels, T) -> (channels, T): their mean, or two."""
    if channels == 1:
        return samples.mean(axis=0, keepdims=True) if len(samples) > 1 else samples
    if len(samples) > 2:
        raise SAMAudioError(
            f'stereo has two channels, not {len(samples)}: stereo="mono" averages them'
        )
    return np.broadcast_to(samples, (2, samples.shape[1]))


def encoded(
    networks: Networks,
    audio: Audio,
    hearing: Hearing,
    max_memory: int | None = None,
    tell: Tell | None = None,
    beside: nn.Module | None = None,
) -> Mixture:
    """Audio with all of its latents. beside: another network in use."""
    mixture = Mixture.of(networks, audio, hearing)
    if mixture.encoded:
        return mixture
    weights = weight_bytes(filter(None, [networks.network, beside]))
    work = memory.Work(frames=len(mixture), size=1)  # nothing is solved
    pieces = memory.pieces(networks.config, weights, work, max_memory)
    watch = Watch(tell, {"encode": mixture.views * len(mixture)}, {"encode": 1.0})
    networks.read_weights()
    mixture.encode(pieces.frames, watch)
    mixture[:]
    return mixture
