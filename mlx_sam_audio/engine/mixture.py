"""What is separated: a recording's samples and latents."""

import os
from collections.abc import Iterable, Iterator
from typing import Annotated

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..calls import go_on
from ..errors import SAMAudioError
from ..files import sha256
from ..kinds import Kind, is_path
from ..media import audio as audio_files
from ..media.decoding import BLOCK
from ..models import chunks
from ..settings import digest
from . import memory
from .networks import Networks, weight_bytes
from .progress import Tell, Watch

WRONG_LENGTH = "the file is not as long as its header says: convert it to wav"


class Mixture:
    """A recording, encoded once for any number of prompts; `SAMAudio.encode` makes it.

    samples: how many there are, mono, at the model's rate; len(): how many latent frames. It holds
    the latents; samples are read from the file again where they are needed.
    """

    def __init__(self, networks: Networks, audio: "Audio", streaming: bool = False):
        """streaming: believe the file's header, rather than count what lasts long to count."""
        self.codec, self.sample_rate = networks.network.audio_codec, networks.sample_rate
        if isinstance(audio, (str, os.PathLike)):
            if not isinstance(audio, audio_files.Recording):
                audio = audio_files.Recording(audio, self.sample_rate)
            told = audio_files.length(audio, self.sample_rate) if streaming else None
            self.samples = told or audio.samples
        else:
            audio = mono(audio, self.sample_rate)
            self.samples = len(audio)
        self.source = audio  # a Recording, or samples (T,)
        channels = networks.config.codec.codebook_dim
        self._latents = np.zeros((networks.frames(self.samples), channels), np.float32)
        self._pieces, self._done = None, 0

    @classmethod
    def of(
        cls, networks: Networks, audio: "Audio", streaming: bool = False, one_piece: bool = False
    ) -> "Mixture":
        """Of audio, or a mixture that this model encoded. one_piece: is it to be solved as one?"""
        mixture = audio if isinstance(audio, Mixture) else cls(networks, audio, streaming)
        if mixture.codec is not networks.network.audio_codec:
            raise SAMAudioError("this mixture was encoded by another model: encode it by this one")
        limit, rate = networks.config.transformer.max_positions, networks.sample_rate
        if one_piece and len(mixture) > limit:
            raise SAMAudioError(
                f"{mixture} lasts {mixture.samples / rate:.0f} s, more than the "
                f"{limit * networks.hop_length / rate:.0f} s the model takes in one piece: use "
                "separate_long()"
            )
        return mixture

    def __len__(self) -> int:
        return len(self._latents)

    @property
    def encoded(self) -> bool:
        return self._done == len(self)

    def __str__(self) -> str:
        return "the audio" if isinstance(self.source, np.ndarray) else str(self.source)

    def blocks(self) -> Iterator[np.ndarray]:
        """Consecutive pieces (t,) of the samples."""
        pieces, size = self.source, BLOCK
        if isinstance(pieces, np.ndarray):
            pieces = np.split(pieces, range(size, len(pieces), size))
        for piece in pieces:
            go_on()
            yield piece

    def wave(self) -> np.ndarray:
        """All samples, (T,) float32."""
        if isinstance(self.source, np.ndarray):
            return self.source
        return np.concatenate(list(self.blocks()))

    def encode(self, frames: int, watch: Watch) -> None:
        """Encode so many frames at a time, when somebody asks for them."""
        if self._pieces is None:
            self._pieces = self._encode(self.blocks(), frames, watch)

    def _encode(
        self, blocks: Iterable[np.ndarray], frames: int, watch: Watch
    ) -> Iterator[np.ndarray]:
        """Consecutive latents (n, C) of blocks of samples (t,)."""
        blocks = (block[None] for block in blocks)
        for latents, _ in chunks.encode(self.codec, blocks, frames):
            piece = np.array(latents[0].astype(mx.float32))
            watch.advance("encode", len(piece))
            yield piece

    def __getitem__(self, cut: slice) -> np.ndarray:
        """Latents (n, C) of some frames."""
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
        """The latents (N, C) of this recording among longer ones in a batch, which the reference
        pads with silence before it encodes them. frames: encoded at a time."""
        if samples == self.samples:
            return self[:]
        wave = np.pad(self.wave(), (0, samples - self.samples))
        return np.concatenate(list(self._encode([wave], frames, watch)))

    def fingerprint(self) -> str:
        """The same on any machine."""
        return (digest if isinstance(self.source, np.ndarray) else sha256)(self.source)


def is_audio(value: object) -> bool:
    return is_path(value) or isinstance(value, (np.ndarray, mx.array, Mixture))


Audio = Annotated[
    str | os.PathLike[str] | np.ndarray | mx.array | Mixture,
    Kind(is_audio, "a path, or an array of samples, or a Mixture"),
]


def mono(audio: np.ndarray | mx.array, sample_rate: int) -> np.ndarray:
    """(T,) or (channels, T) -> (T,) float32, at least one sample."""
    if isinstance(audio, mx.array) and audio.dtype == mx.bfloat16:  # which numpy lacks
        audio = audio.astype(mx.float32)
    wave = np.asarray(audio)
    if not np.issubdtype(wave.dtype, np.floating):
        raise SAMAudioError(f"samples must be floating-point numbers, -1 to 1, not {wave.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        wave = np.array(wave, dtype=np.float32)
    if wave.ndim == 2 and 0 < wave.shape[0] <= wave.shape[1]:
        wave = wave.mean(axis=0)
    if wave.ndim != 1:
        raise SAMAudioError(
            f"audio must be (T,) or (channels, T) at {sample_rate} Hz, not {wave.shape}"
        )
    if len(wave) == 0:
        raise SAMAudioError("the audio holds no samples")
    return audio_files.sound(wave, "the audio")


def encoded(
    networks: Networks,
    audio: Audio,
    max_memory: int | None = None,
    tell: Tell | None = None,
    beside: nn.Module | None = None,
) -> Mixture:
    """Audio with all of its latents. beside: another network in use."""
    mixture = Mixture.of(networks, audio)
    if mixture.encoded:
        return mixture
    weights = weight_bytes(filter(None, [networks.network, beside]))
    work = memory.Work(frames=len(mixture), size=1)  # nothing is solved
    pieces = memory.pieces(networks.config, weights, work, max_memory)
    watch = Watch(tell, {"encode": len(mixture)}, {"encode": 1.0})
    networks.read_weights()
    mixture.encode(pieces.frames, watch)
    mixture[:]
    return mixture
