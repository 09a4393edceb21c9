"""What a separation gives."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from .. import __version__
from ..errors import SAMAudioError
from ..files import slug
from ..kinds import FilePath, check, native
from ..media import sound_files
from ..media.video import MaskedVideo
from ..prompts import Span
from ..settings import Settings, digest
from .presence import Presence, absences


@dataclass(frozen=True, eq=False)
class Chunk:
    """A piece of a stream; pieces follow one another without gap or overlap. (t,) in mono, (2, t)
    in stereo."""

    target: mx.array  # float32
    residual: mx.array  # float32
    sample_rate: int
    spans: tuple[Span, ...] = ()  # of the whole recording, predicted ones included
    presence: tuple[Presence, ...] = ()  # of the windows that end in this piece
    start: float = 0.0  # seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """How a separation was made: all that is needed to judge it and to repeat it."""

    model: str  # its name
    description: str
    spans: tuple[Span, ...]  # predicted ones included
    spans_predicted: bool
    video: MaskedVideo | None
    settings: Settings
    seed: int  # of this result, where there are several candidates
    sample_rate: int
    samples: int
    windows: int
    evaluations: int  # of each window
    watermark: bool
    missing: tuple[str, ...]  # groups of the original's tensors that the model lacks
    estimated_memory: int  # bytes
    seconds: dict[str, float] = field(default_factory=dict)  # of each stage, of the whole batch
    presence: tuple[Presence, ...] = ()  # is the sound there? window by window
    score: float | None = None  # the ranker's, where there were several candidates
    scores: dict[str, float] = field(default_factory=dict)  # the same, and what it consists of
    candidates: tuple["Separation", ...] = ()  # all of them, in the order of their seeds

    def report(self) -> dict[str, Any]:
        """The same for JSON."""
        settings = {one.name: plain(getattr(self.settings, one.name)) for one in fields(Settings)}
        length = self.samples / self.sample_rate
        seconds = {**self.seconds, "total": sum(self.seconds.values())}
        return {
            "model": self.model,
            "description": self.description,
            "spans": [[span.sign, span.start, span.end] for span in self.spans],
            "spans_predicted": self.spans_predicted,
            "video": plain(self.video and self.video.frames),
            "mask": plain(self.video and self.video.mask),
            "residual_by": settings.pop("residual"),
            **settings,
            "seed": self.seed,
            "evaluations": self.evaluations,
            "windows": self.windows,
            "candidates": [
                {"seed": one.seed, "score": one.score, "scores": one.scores}
                for one in self.candidates
            ],
            "presence": [asdict(row) for row in self.presence],
            "absent": absences(self.presence),
            "watermark": self.watermark,
            "missing": self.missing,
            "versions": {"mlx_sam_audio": __version__, "mlx": mx.__version__},
            "sample_rate": self.sample_rate,
            "audio_seconds": length,
            "seconds": seconds,
            "real_time_factor": seconds["total"] / length,
            "estimated_memory_bytes": self.estimated_memory,
            "peak_memory_bytes": mx.get_peak_memory(),
            "active_memory_bytes": mx.get_active_memory(),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Separation(Facts):
    """What was asked for and what is left, (T,) in mono, (2, T) in stereo, as long as the input."""

    target: mx.array  # float32
    residual: mx.array  # float32

    def facts(self) -> Facts:
        """Without the sound."""
        return Facts(**{one.name: getattr(self, one.name) for one in fields(Facts)})

    def save(self, target: FilePath, residual: FilePath | None = None) -> list[str]:
        """Write wav (32-bit float) or flac (24-bit). Returns notices of peaks above full scale."""
        check(dict(target=target, residual=residual), Separation.save)
        stems = [(target, np.array(self.target)), (residual, np.array(self.residual))]
        written = sound_files.write_all(
            [(path, stem) for path, stem in stems if path is not None], self.sample_rate
        )
        return [notice for notice in written if notice]


class Stems(tuple[Separation, ...]):
    """Separations of one recording, one for each prompt."""

    @property
    def shared(self) -> bool:
        """Whether they have a common rest."""
        return all(stem.residual is self[0].residual for stem in self)

    @property
    def rest(self) -> mx.array:
        """What no prompt took, with which the targets add up to the recording."""
        if not self.shared:
            raise SAMAudioError("stems with share=False have a residual each, and no common rest")
        return self[0].residual

    def save(self, folder: FilePath, suffix: str = ".wav") -> list[str]:
        """Write each target, and the rest where there is one, into a folder, named by description
        and, where two are alike, number: all or none. Returns notices of peaks above full scale."""
        check(dict(folder=folder), Stems.save)
        sounds = [(slug(stem.description) or "sound", stem.target) for stem in self]
        if self.shared:
            sounds.append(("rest", self.rest))
        names = [name for name, _ in sounds]
        files = []
        for i, (name, sound) in enumerate(sounds):
            again = f"-{names[: i + 1].count(name)}" if names.count(name) > 1 else ""
            files.append((Path(folder, f"{name}{again}{suffix}"), np.array(sound)))
        written = sound_files.write_all(files, self[0].sample_rate)
        return [notice for notice in written if notice]


def plain(value: object) -> object:
    """A setting as JSON has it; arrays and functions by what tells them from others."""
    if isinstance(value, (np.ndarray, mx.array)):
        return f"sha256 {digest(value)}"
    if isinstance(value, os.PathLike):
        return str(value)
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    if isinstance(value, Mapping):
        return {name: native(weight) for name, weight in value.items()}
    return value
