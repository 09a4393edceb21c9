"""A dataset: a folder of items, each with a mixture, its prompts, and what is known of the truth.

DATASET/dataset.json      name, version, licence, source, metric_rate, aggregate: if known
DATASET/missing.json      [{"id", "why", "settings"}], items that could not be made
DATASET/ID/prompt.json    description, spans, group, settings, class, other, absent, spans_tell
DATASET/ID/mixture.wav    and target, residual, clip, mask, where they are known
"""

import math
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np

from mlx_sam_audio import MaskedVideo, SAMAudioError, Span
from mlx_sam_audio.errors import note
from mlx_sam_audio.files import existing, sha256
from mlx_sam_audio.loading.strict_json import loaded, read_json
from mlx_sam_audio.media import audio
from mlx_sam_audio.models.schema import Wrong, parse
from mlx_sam_audio.settings import digest

Kind = Literal["text", "text+span", "span", "visual", "text+visual", "wrong", "absent"]
PROMPTS = get_args(Kind)
Aggregate = Literal["mean", "macro-mean", "class-median-mean"]
SOUNDS = (".wav", ".flac")
CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
MASKS = (".npz", ".png", *CLIPS)
MISFIT = -40.0  # dB: how near to the mixture target and residual must be, lest it is said


@dataclass(frozen=True)
class Facts:
    """dataset.json."""

    name: str | None = None
    version: str | None = None
    licence: str | None = None
    source: str | None = None
    metric_rate: Annotated[int, 1000, 384_000] | None = None  # Hz
    aggregate: Aggregate = "mean"


@dataclass(frozen=True)
class Lost:
    """A row of missing.json."""

    id: Annotated[str, 1, 250]
    why: str
    settings: dict[str, Kind] | None = None

    def wrong(self) -> Wrong:
        return {f"{self.id!r} is no name of a folder": Path(self.id).name != self.id}


@dataclass(frozen=True)
class Prompt:
    """prompt.json, in which `label` is "class"."""

    description: str = ""
    spans: tuple[Annotated[tuple[Any, ...], 3, 3], ...] = ()  # "+" or "-", start, end
    group: str | None = None  # the recording that the item is from
    settings: dict[str, Kind] | None = None
    label: str | None = None
    other: str | None = None  # words for another sound of the mixture
    absent: str | None = None  # words for one that is not in it
    spans_tell: bool = True  # whether its times tell the sound from the rest


class Missing(Exception):
    """Why an item cannot be separated, or not by this prompt."""


@dataclass(frozen=True)
class Item:
    """A mixture and what is wanted of it."""

    id: str
    folder: Path
    told: Prompt
    spans: tuple[Span, ...]
    settings: dict[str, str]  # the (sub)sets that it belongs to, and each one's kind of prompt

    @property
    def group(self) -> str:
        """The recording that it is from, which others may be from too."""
        return self.told.group or self.id

    @property
    def mixture(self) -> Path:
        path = self.file("mixture", SOUNDS)
        if path is None:
            raise Missing(f"it has no mixture{' or mixture'.join(SOUNDS)}")
        return path

    def file(self, stem: str, suffixes: tuple[str, ...]) -> Path | None:
        found = [path for s in suffixes if (path := self.folder / f"{stem}{s}").is_file()]
        if len(found) > 1:
            raise SAMAudioError(f"{found[0]} and {found[1].name} are both there: remove one")
        return found[0] if found else None

    def prompt(self, kind: str, lowercase: bool = False) -> dict:
        """The arguments of a separation. Raises Missing for what the item does not tell."""
        words = {"wrong": "other", "absent": "absent"}.get(kind, "description")
        given, told = {}, getattr(self.told, words)
        if kind not in ("span", "visual"):
            if not told:
                raise Missing(f'it has no "{words}"')
            given["description"] = told.lower() if lowercase else told
        if kind in ("span", "text+span"):
            if not self.spans:
                raise Missing("it has no spans")
            if kind == "span" and not self.told.spans_tell:
                raise Missing("its times do not tell it from the rest")
            given["spans"] = self.spans
        if kind in ("visual", "text+visual"):
            given["video"] = self.video()
        return given

    def video(self) -> MaskedVideo:
        clip, mask = self.file("clip", CLIPS), self.file("mask", MASKS)
        if clip is None:
            raise Missing("it has no video")
        if mask is not None and mask.suffix == ".npz":
            mask = masks(existing(mask))
        return MaskedVideo(clip, mask=mask)

    def seconds(self) -> float:
        """Of the mixture; 0 if there is none that can be read."""
        path, rate = self.file("mixture", SOUNDS), 48_000
        try:
            return audio.Recording(path, rate).samples / rate if path else 0.0
        except SAMAudioError as error:
            note(str(error))
            return 0.0

    def rate(self) -> int:
        """Of the target, or else of the mixture, in Hz."""
        return audio.beginning(self.file("target", SOUNDS) or self.mixture)[1]

    def read(self, path: Path, rate: int, channels: int) -> np.ndarray:
        """A sound of the item at `rate`: (channels, T)."""
        blocks = [np.atleast_2d(block) for block in audio.blocks(path, rate, channels)]
        return np.concatenate(blocks, axis=1).astype(np.float64)

    def truth(self, rate: int, channels: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Target and residual (channels, T) at `rate`; None where they are not known."""
        paths = {name: self.file(name, SOUNDS) for name in ("target", "residual")}
        if paths["target"] is None:
            return None, None
        paths = {"mixture": self.mixture, **{name: path for name, path in paths.items() if path}}
        found = {name: self.read(path, rate, channels) for name, path in paths.items()}
        sizes = [wave.shape[1] for wave in found.values()]
        if max(sizes) - min(sizes) > 1:  # one is of rounding, where their rates differ
            told = ", ".join(f"{name} {wave.shape[1]}" for name, wave in found.items())
            raise SAMAudioError(
                f"{self.folder}: its sounds are not equally long ({told} samples at {rate} Hz)"
            )
        mixture, target, *rest = (wave[:, : min(sizes)] for wave in found.values())
        return target, rest[0] if rest else mixture - target

    def fingerprint(self) -> str:
        """Of all its files."""
        paths = sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))
        return digest(*((path.name, sha256(existing(path))) for path in paths))


def misfit(mixture: np.ndarray, target: np.ndarray, residual: np.ndarray) -> float:
    """How far target and residual (C, T) are from the mixture (C, T or one more), in dB of it."""
    mixture = mixture[:, : target.shape[1]]
    error, whole = (np.square(x).sum() for x in (mixture - target - residual, mixture))
    return 10 * math.log10((error + 1e-20) / (whole + 1e-20))


def masks(path: Path) -> np.ndarray:
    """The only array of an npz. Raises SAMAudioError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            (mask,) = arrays.values()
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile):
        raise SAMAudioError(f"{path} is not an npz of one array") from None
    return mask


@dataclass(frozen=True)
class Dataset:
    name: str
    items: tuple[Item, ...]  # by id
    missing: tuple[Lost, ...]
    facts: Facts

    @classmethod
    def read(cls, folder: Path) -> "Dataset":
        """Raises SAMAudioError."""
        if not folder.is_dir():
            raise SAMAudioError(f"there is no folder {folder}: --prepare makes datasets")
        path = folder / "dataset.json"
        facts = parse(Facts, read_json(path), path) if path.exists() else Facts()
        path, missing = folder / "missing.json", ()
        if path.exists():
            missing = parse(tuple[Lost, ...], loaded(path), path)
        name = facts.name or folder.resolve().name
        paths = sorted(folder.glob("*/prompt.json"))
        items = tuple(item(path, name) for path in paths if not path.parent.name.startswith("."))
        if not items:
            raise SAMAudioError(f"{folder} holds no items: each is a folder with a prompt.json")
        ids = {item.id for item in items}
        return cls(name, items, tuple(row for row in missing if row.id not in ids), facts)

    def described(self) -> dict:
        return {**asdict(self.facts), "name": self.name}


def item(path: Path, dataset: str) -> Item:
    """Of a prompt.json. Raises SAMAudioError."""
    values = read_json(path)
    if "class" in values:
        values["label"] = values.pop("class")
    told = parse(Prompt, values, path)
    try:
        spans = tuple(Span(*row) for row in told.spans)
    except SAMAudioError as error:
        raise SAMAudioError(f"{path}: {error}") from None
    return Item(path.parent.name, path.parent, told, spans, told.settings or {dataset: "text"})
