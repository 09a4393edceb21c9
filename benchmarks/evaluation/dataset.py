"""A dataset: a folder of items, each with a mixture, its prompts, and what is known of the truth.

DATASET/dataset.json      name, version, licence, source, metric_rate, aggregate: if known
DATASET/missing.json      [{"id", "why", "settings"}], items that could not be made
DATASET/ID/prompt.json    description, spans, group, settings, class, other, absent, spans_tell
DATASET/ID/mixture.wav    and target, residual, clip, mask, where they are known
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mlx_sam_audio import MaskedVideo, SAMAudioError, Span
from mlx_sam_audio.files import existing, sha256
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.media import audio
from mlx_sam_audio.settings import digest

PROMPTS = ("text", "text+span", "span", "visual", "text+visual", "wrong", "absent")
AGGREGATES = ("mean", "macro-mean", "class-median-mean")
FACTS = {"name", "version", "licence", "source", "metric_rate", "aggregate"}
KEYS = {"description", "spans", "group", "settings", "class", "other", "absent", "spans_tell"}
SOUNDS = (".wav", ".flac")
CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
MASKS = (".npz", ".png", *CLIPS)


class Missing(Exception):
    """Why an item cannot be separated, or not by this prompt."""


@dataclass(frozen=True)
class Item:
    """A mixture and what is wanted from it. told: its prompt.json."""

    id: str
    folder: Path
    told: dict
    dataset: str

    @property
    def group(self) -> str:
        """The recording that it is from, which others may be from too."""
        return self.told.get("group") or self.id

    @property
    def settings(self) -> dict[str, str]:
        """The (sub)sets that it belongs to, and the kind of prompt that each of them gives."""
        return self.told.get("settings") or {self.dataset: "text"}

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        return tuple(Span(*row) for row in self.told.get("spans") or ())

    @property
    def mixture(self) -> Path:
        path = self.file("mixture", SOUNDS)
        if path is None:
            raise Missing("it has no mixture")
        return path

    def file(self, stem: str, suffixes: tuple[str, ...]) -> Path | None:
        found = [path for s in suffixes if (path := self.folder / f"{stem}{s}").is_file()]
        if len(found) > 1:
            raise SAMAudioError(f"{found[0]} and {found[1].name} are both there: remove one")
        return found[0] if found else None

    def prompt(self, kind: str, lowercase: bool = False) -> dict:
        """The arguments of a separation. Raises Missing for what the item does not tell."""
        words = {"wrong": "other", "absent": "absent"}.get(kind, "description")
        given, told = {}, self.told.get(words)
        if kind not in ("span", "visual"):
            if not told:
                raise Missing(f'it has no "{words}"')
            given["description"] = told.lower() if lowercase else told
        if kind in ("span", "text+span"):
            if not self.spans:
                raise Missing("it has no spans")
            if kind == "span" and not self.told.get("spans_tell", True):
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
            with np.load(existing(mask)) as arrays:
                (mask,) = arrays.values()
        return MaskedVideo(clip, mask=mask)

    def seconds(self) -> float:
        """Of the mixture; 0 if there is none."""
        path, rate = self.file("mixture", SOUNDS), 48_000
        return audio.Recording(path, rate).samples / rate if path else 0.0

    def rate(self) -> int:
        """Of the target, or else of the mixture, in Hz."""
        return audio.beginning(self.file("target", SOUNDS) or self.mixture)[1]

    def read(self, path: Path, rate: int, channels: int) -> np.ndarray:
        """A sound of the item at `rate`: (channels, T)."""
        blocks = [np.atleast_2d(block) for block in audio.blocks(path, rate, channels)]
        return np.concatenate(blocks, axis=1).astype(np.float64)

    def truth(self, rate: int, channels: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Target and residual (channels, T) at `rate`; None where they are not known."""
        target, rest = (self.file(name, SOUNDS) for name in ("target", "residual"))
        if target is None:
            return None, None
        target = self.read(target, rate, channels)
        if rest is not None:
            return target, self.read(rest, rate, channels)
        mixture = self.read(self.mixture, rate, channels)
        if mixture.shape != target.shape:
            raise SAMAudioError(
                f"{self.folder}: target and mixture are not equally long: make the item again"
            )
        return target, mixture - target

    def fingerprint(self) -> str:
        """Of all its files."""
        paths = sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))
        return digest(*((path.name, sha256(path)) for path in paths))


@dataclass(frozen=True)
class Dataset:
    name: str
    items: tuple[Item, ...]  # by id
    missing: tuple[dict, ...]  # id, why, settings
    metric_rate: int | None
    aggregate: str
    facts: dict  # dataset.json

    @classmethod
    def read(cls, folder: Path) -> "Dataset":
        """Raises SAMAudioError."""
        if not folder.is_dir():
            raise SAMAudioError(f"there is no folder {folder}: --prepare makes datasets")
        path = folder / "dataset.json"
        facts = read_json(path) if path.exists() else {}
        known(facts, FACTS, path)
        name = facts.get("name") or folder.resolve().name
        aggregate = facts.get("aggregate") or "mean"
        if aggregate not in AGGREGATES:
            raise SAMAudioError(f"{path}: aggregate must be one of {', '.join(AGGREGATES)}")
        path, missing = folder / "missing.json", []
        if path.exists():
            missing = json.loads(path.read_text())
        paths = sorted(folder.glob("*/prompt.json"))
        items = tuple(Item(path.parent.name, path.parent, told(path), name) for path in paths)
        if not items:
            raise SAMAudioError(f"{folder} holds no items: each is a folder with a prompt.json")
        return cls(name, items, tuple(missing), facts.get("metric_rate"), aggregate, facts)


def told(path: Path) -> dict:
    """A prompt.json, checked."""
    found = read_json(path)
    known(found, KEYS, path)
    strange = set((found.get("settings") or {}).values()) - set(PROMPTS)
    if strange:
        kinds = ", ".join(PROMPTS)
        raise SAMAudioError(f"{path}: there is no prompt {strange.pop()!r}: choose from {kinds}")
    return found


def known(found: dict, keys: set[str], path: Path) -> None:
    strange = sorted(found.keys() - keys)
    if strange:
        raise SAMAudioError(f"{path} has {', '.join(strange)}, which nothing reads: remove it")
