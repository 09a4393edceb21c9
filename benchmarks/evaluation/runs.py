"""A run: the folder of everything that one way to separate made of a dataset, and scored.

RUN/run.json      the identity: all that could change a number; what was asked; the data's sums
RUN/items.jsonl   a row for each item, prompt and seed; sorted once the run is complete
RUN/audio/        ID/{mixture,reference,codec}.wav and ID/PROMPT.K/{target,residual}.wav
RUN/timing.jsonl  seconds, memory and dates; all else is the same, byte for byte, in a second run
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mlx_sam_audio import SAMAudioError
from mlx_sam_audio.files import append, make_folder, reason, whole
from mlx_sam_audio.loading.strict_json import no_number, read_json
from mlx_sam_audio.models.schema import Lenient, parse

FORMAT = 1
Scores = dict[str, float | None]


@dataclass(frozen=True)
class Meta(Lenient):
    """What must be in a run.json."""

    format: int
    identity: dict[str, Any]
    deviations: tuple[str, ...]
    dataset: dict[str, Any]
    data: dict[str, str]
    helpers: dict[str, str]
    scorers: dict[str, str]


@dataclass(frozen=True)
class Row(Lenient):
    """What must be in a row of items.jsonl."""

    id: str
    prompt: str
    seed: int
    status: Literal["ok", "error", "missing"]
    error: str | None
    group: str
    settings: tuple[str, ...]
    scores: Scores
    mixture: Scores
    codec: Scores
    why: dict[str, str]
    facts: dict[str, Any]


class Task(NamedTuple):
    """A separation: an item, a kind of prompt, the number of a seed."""

    id: str
    prompt: str
    k: int

    @classmethod
    def of(cls, row: dict) -> "Task":
        return cls(row["id"], row["prompt"], row["seed"])

    def seed(self, base: int) -> int:
        """Of the noise: the same for all prompts and models, whatever the order and number of the
        items."""
        text = f"{base}:{self.id}:{self.k}"
        return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


@dataclass
class Run:
    folder: Path
    meta: dict
    rows: list[dict] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def aggregate(self) -> str:
        return self.meta["dataset"]["aggregate"]

    @classmethod
    def read(cls, folder: str | Path) -> "Run":
        """Raises SAMAudioError."""
        folder = Path(folder)
        if not (folder / "run.json").is_file():
            raise SAMAudioError(f"{folder} is no run: there is no {folder / 'run.json'}")
        path = folder / "run.json"
        run = cls(folder, read_json(path))
        if parse(Meta, run.meta, path).format != FORMAT:
            raise SAMAudioError(f"{folder} was made by another version: evaluate again")
        run.rows = list(run.kept().values())
        return run

    @classmethod
    def begin(cls, folder: Path, meta: dict, resume: bool) -> "Run":
        """A new run, or the one in the folder if it is the same. Raises SAMAudioError."""
        if not (folder / "run.json").exists():
            if any(folder.iterdir() if folder.is_dir() else ()):
                raise SAMAudioError(f"{folder} holds something else than a run: give another --out")
            make_folder(folder)
            return cls(folder, meta)
        old = cls.read(folder)
        if not resume:
            raise SAMAudioError(f"{folder} holds a run: give --resume, or another --out")
        changed = [
            f"{name} ({old.meta['identity'].get(name)}, not {value})"
            for name, value in meta["identity"].items()
            if old.meta["identity"].get(name) != value
        ]
        for name in ("data", "helpers", "scorers"):
            both = old.meta[name].keys() & meta[name].keys()
            changed += sorted(f"{name}: {x}" for x in both if old.meta[name][x] != meta[name][x])
            meta[name] = dict(sorted({**old.meta[name], **meta[name]}.items()))
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise SAMAudioError(
                f"{folder} holds a run with another {'; another '.join(changed[:3])}{more}: give "
                "another --out"
            )
        return cls(folder, meta, old.rows)

    def write_meta(self) -> None:
        self.write("run.json", json.dumps(self.meta, indent=1, sort_keys=True) + "\n")

    def kept(self) -> dict[Task, dict]:
        """The rows that are whole, the last of each task: a kill may have torn a line."""
        return {Task.of(row): row for row in lines(self.folder / "items.jsonl") if is_row(row)}

    def append(self, row: dict) -> None:
        add(self.folder / "items.jsonl", row)

    def complete(self, rows: Iterable[dict]) -> None:
        """The rows in their order."""
        self.rows = sorted(rows, key=Task.of)
        self.write("items.jsonl", "".join(map(line, self.rows)))

    def write(self, name: str, text: str) -> None:
        with whole(self.folder / name) as (part,):
            part.write_text(text, encoding="utf-8")

    def time(self, **facts: object) -> None:
        add(self.folder / "timing.jsonl", facts)

    def took(self) -> str:
        """How long the separations took, in a line; empty if there are none."""
        rows = list(lines(self.folder / "timing.jsonl"))
        seconds, audio = (sum(row[name] for row in rows) for name in ("seconds", "audio_seconds"))
        if not rows:
            return ""
        peak = max(row["peak_memory_bytes"] for row in rows) / 2**20
        return (
            f"{len(rows)} separations of {audio:.0f} s of sound took {seconds:.0f} s, "
            f"{seconds / audio:.2f} s a second, and at most {peak:.0f} MiB"
        )

    def sounds(self, task: Task | str) -> Path:
        """The folder of what was heard of a task, or of an item."""
        if isinstance(task, str):
            return self.folder / "audio" / task
        return self.folder / "audio" / task.id / f"{task.prompt}.{task.k}"

    def separated(self, task: Task) -> dict | None:
        """What is told of a separation, if its sounds are there."""
        folder = self.sounds(task)
        names = ("facts.json", "target.wav", "residual.wav", "../mixture.wav")
        there = all((folder / name).is_file() for name in names)
        return read_json(folder / "facts.json") if there else None


def line(row: dict) -> str:
    return json.dumps(row, allow_nan=False, default=str) + "\n"


def lines(path: Path) -> Iterator[dict]:
    """The JSON objects in the lines of a file; others, which were torn, are left out."""
    for text in path.read_bytes().splitlines() if path.exists() else ():
        try:
            found = json.loads(text.decode(), parse_constant=no_number)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found


def add(path: Path, row: dict) -> None:
    try:
        append(path, line(row))
    except OSError as error:
        raise SAMAudioError(f"cannot write {path}: {reason(error)}") from None


def is_row(found: dict) -> bool:
    try:
        parse(Row, found, "")
    except SAMAudioError:
        return False
    return True
