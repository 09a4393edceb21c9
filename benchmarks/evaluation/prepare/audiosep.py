"""The six sets of AudioSep's benchmark, whose mixtures are ready made.

Columns, names of files and aggregates as in evaluation/ of Audio-AGI/AudioSep, where all is read in
mono at 32 kHz.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mlx_sam_audio.errors import SAMAudioError

from . import tables
from .collection import Collection, Prompt, Wanted, named
from .sounds import folder, inside, length, place

SAMPLE_RATE = 32_000
INSTRUMENTS = {
    *("acoustic guitar", "violin", "accordion", "xylophone", "erhu", "trumpet", "tuba"),
    *("cello", "flute", "saxophone"),
}
MUSIC = re.compile(r"(.+)_\d+\.wav")  # a recording and the number of a part of it
ESC_50 = re.compile(r"\d-(\d+)-[A-Z]-\d+\.wav")


class Row(NamedTuple):
    """sounds: files by the names that they are given. label: its class."""

    id: str
    description: str
    group: str
    sounds: dict[str, str]
    label: str | None = None
    other: str | None = None


class Dialect(NamedTuple):
    """columns: of its csv. read: a row. tells: whether rows are of this set, among those with the
    same columns."""

    name: str
    columns: str
    read: Callable[[dict], Row]
    licence: str
    aggregate: str = "mean"
    tells: Callable[[list[dict]], bool] = lambda rows: True


def segments(row: dict, recording: re.Pattern | None = None) -> Row:
    """Files by number. recording: of a set of classes, finds which one a sound is from."""
    idx, words = row["idx"], row["caption"]
    files = {"mixture": f"mixture-{idx}.wav", "target": f"segment-{idx}.wav"}
    part = recording and recording.fullmatch(row["src_wav"])
    group = part[1] if part else row["src_wav"]
    return Row(named(idx.zfill(4), words), words, group, files, words if recording else None)


def audioset(row: dict) -> Row:
    """Files in a folder for each class; the column noise_wav holds the mixture's path."""
    sounds = {"mixture": row["noise_wav"], "target": row["src_wav"]}
    sounds = {name: path[path.index("class_id=") :] for name, path in sounds.items()}
    place, words = sounds["target"], row["caption"]
    number = re.search(r"index=(\w+)", place)
    id = named(row["idx"].zfill(3), number[1] if number else Path(place).stem, words)
    return Row(id, words, place, sounds, words)


def vggsound(row: dict) -> Row:
    """Files by path; the second source is the residual."""
    files = {"mixture": row["mix_wav"], "target": row["s0_wav"], "residual": row["s1_wav"]}
    group = row["file_id"].split("+++")[0]
    id = named(row["file_id"], row["s0_text"])
    return Row(id, row["s0_text"], group, files, other=row["s1_text"])


YOUTUBE = "sounds of YouTube, as their owners say"
SHARED = "idx,caption,src_wav,noise_wav"
DIALECTS = (  # of those with the same columns the last takes what the others do not tell
    Dialect("audiocaps", "idx,caption,labels,src_wav,noise_wav", segments, YOUTUBE),
    Dialect("clotho", "idx,caption,src_wav,noise_wav1,noise_wav1", segments, "of each Freesound"),
    Dialect("vggsound", "file_id,mix_wav,s0_wav,s0_text,s1_wav,s1_text", vggsound, YOUTUBE),
    Dialect(
        *("audioset", SHARED, audioset, YOUTUBE, "class-median-mean"),
        tells=lambda rows: all("class_id=" in row["noise_wav"] for row in rows),
    ),
    Dialect(
        *("music", SHARED, partial(segments, recording=MUSIC), YOUTUBE, "macro-mean"),
        tells=lambda rows: {row["caption"] for row in rows} <= INSTRUMENTS,
    ),
    Dialect(
        *("esc50", SHARED, partial(segments, recording=ESC_50), "CC BY-NC 3.0"),
        tells=lambda rows: all(ESC_50.fullmatch(row["src_wav"]) for row in rows),
    ),
)


def recognised(table: tables.Table, source: str | Path) -> Dialect:
    """By its columns, and where several sets have those, by its rows. Raises SAMAudioError."""
    columns = ",".join(table.columns)
    found = [dialect for dialect in DIALECTS if dialect.columns == columns]
    if not found:
        known = dict.fromkeys(dialect.columns for dialect in DIALECTS)
        raise SAMAudioError(f"{source} has the columns {columns}: known are {'; '.join(known)}")
    for dialect in found:
        if dialect.tells(table.rows):
            return dialect
    names = ", ".join(dialect.name for dialect in found)
    raise SAMAudioError(f"{source} has the columns of {names}, but rows of none of them")


def read(source: str | Path, sounds: str | Path) -> Collection:
    """source: the set's csv. sounds: its folder, or the one that has a folder of its name."""
    table = tables.read_csv(source)
    dialect, root = recognised(table, source), folder(sounds)
    if (root / dialect.name).is_dir():
        root = root / dialect.name
    items = []
    for row in map(dialect.read, table.rows):
        prompt = Prompt(
            row.description, row.group, {dialect.name: "text"}, label=row.label, other=row.other
        )
        origin = repr((dialect.name, row))
        items.append(Wanted(row.id, prompt, partial(fill, root, row), origin))
    return Collection(
        name=dialect.name,
        version=table.version,
        licence=dialect.licence,
        source="https://github.com/Audio-AGI/AudioSep",
        metric_rate=SAMPLE_RATE,
        aggregate=dialect.aggregate,
        items=items,
    )


def fill(root: Path, row: Row, into: Path) -> tuple[float, dict]:
    paths = {name: inside(root, path) for name, path in row.sounds.items()}
    seconds = length(*paths.values())
    for name, path in paths.items():
        place(path, into / name)
    return seconds, {}
