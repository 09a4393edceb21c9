"""Items that are asked for, and how they become folders."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from mlx_sam_audio.errors import SAMAudioError
from mlx_sam_audio.files import make_folder, slug, whole
from mlx_sam_audio.loading.strict_json import read_json
from mlx_sam_audio.media.sound_files import disk_is_full
from mlx_sam_audio.settings import digest

MADE = ".made.json"  # beside prompt.json: of what the item was made, and what it lacks


@dataclass(frozen=True)
class Prompt:
    """What goes into prompt.json. spans: seconds in which the target sounds."""

    description: str
    group: str
    settings: Mapping[str, str]
    spans: tuple[tuple[float, float], ...] = ()
    label: str | None = None  # its class
    other: str | None = None
    absent: str | None = None
    spans_tell: bool | None = None

    def told(self, duration: float) -> dict:
        """Of a mixture of so many seconds, in which the spans end."""
        spans = [["+", max(start, 0.0), min(end, duration)] for start, end in self.spans]
        values = {**asdict(self), "spans": [span for span in spans if span[1] < span[2]]}
        values["class"] = values.pop("label")
        optional = ("class", "other", "absent", "spans_tell")
        return {k: v for k, v in values.items() if k not in optional or v is not None}


class Wanted(NamedTuple):
    """An item that is asked for.

    fill: writes its sounds into a folder; returns the mixture's seconds, and why settings that
    need more than sound cannot be served. Raises SAMAudioError where there is no sound. origin: all
    that decides what is made.
    """

    id: str
    prompt: Prompt
    fill: Callable[[Path], tuple[float, dict[str, str]]]
    origin: str


class Collection(NamedTuple):
    """A dataset that is asked for: what is said about it in dataset.json, and its items."""

    name: str
    version: str
    licence: str
    source: str
    metric_rate: int | None  # Hz at which the set's own evaluation compares
    aggregate: str
    items: Sequence[Wanted]


class Report(NamedTuple):
    """made, asked: items. missing: as in missing.json. lacking: why of items that are there
    settings cannot be served. settings: of each, how many were made and asked."""

    made: int
    asked: int
    missing: list[dict]
    lacking: list[dict]
    settings: dict[str, tuple[int, int]]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        yield f"{self.made} of {self.asked} items are there"
        if len(self.settings) > 1:
            for name, (made, asked) in sorted(self.settings.items()):
                yield f"{name}: {made} of {asked}"
        for row in self.missing:
            yield f"{row['id']} is missing: {row['why']}"
        for row in self.lacking:
            yield f"{row['id']} lacks {', '.join(row['settings'])}: {row['why']}"


def make(collection: Collection, out: Path, progress: Callable[[Sequence], Iterable]) -> Report:
    """Each item in a folder of its own, and what is said of all of them."""
    items = unique(collection.items)
    make_folder(out)
    check(out, items)
    missing, lacking, made, asked = [], [], Counter(), Counter()
    for item in progress(items):
        settings, folder = dict(item.prompt.settings), out / item.id
        asked.update(settings.keys())
        try:
            if not folder.exists():
                write(item, folder)
        except SAMAudioError as error:
            if disk_is_full(out):
                raise
            missing.append({"id": item.id, "why": str(error), "settings": settings})
            continue
        lacks = read_json(folder / MADE)["lacks"]
        made.update(settings.keys() - lacks.keys())
        for why in dict.fromkeys(lacks.values()):
            names = {name: settings[name] for name in lacks if lacks[name] == why}
            lacking.append({"id": item.id, "why": why, "settings": names})
    write_json(out / "missing.json", missing)
    facts = collection._asdict()
    del facts["items"]
    write_json(out / "dataset.json", facts)
    counts = {name: (made[name], asked[name]) for name in asked}
    return Report(len(items) - len(missing), len(items), missing, lacking, counts)


def unique(items: Sequence[Wanted]) -> list[Wanted]:
    """The same, with a number where an id occurs once more."""
    found = {}
    for item in items:
        id, number = item.id, 1
        while id in found:
            number += 1
            id = f"{item.id}-{number}"
        found[id] = item._replace(id=id)
    return list(found.values())


def check(out: Path, items: Sequence[Wanted]) -> None:
    """Raises SAMAudioError where the folder holds anything else than some of these items."""
    origins = {item.id: digest(item.origin) for item in items}
    for folder in sorted(out.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            made = folder / MADE
            if not made.exists() or read_json(made)["of"] != origins.get(folder.name):
                raise SAMAudioError(f"{folder} was made of something else: choose another folder")


def write(item: Wanted, folder: Path) -> None:
    """A folder that appears with all that is in it. Raises SAMAudioError."""
    with whole(folder) as (part,):
        part.mkdir()
        duration, lacks = item.fill(part)
        if lacks and not item.prompt.settings.keys() - lacks.keys():
            raise SAMAudioError(next(iter(lacks.values())))
        write_json(part / MADE, {"of": digest(item.origin), "lacks": lacks})
        write_json(part / "prompt.json", item.prompt.told(duration))


def write_json(path: Path, value: object) -> None:
    with whole(path) as (part,):
        text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
        part.write_text(text + "\n", encoding="utf-8")


def named(*words: object) -> str:
    """A folder's name of what tells an item from others."""
    return "-".join(filter(None, (slug(str(word)) for word in words)))
