"""What was done in a folder of results: a line of JSON when a recording is begun, done or failed.

Every line names the files that it is about, relative to the folder; the last one that names a file
is what counts. So a run that was killed is finished by the same command, and nobody else's file is
replaced. Several processes at one folder have a file each, in a hidden folder, since what several
machines append to a file gets lost; one of them adds all that to the manifest.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import Cancelled, SAMAudioError
from ..files import append, make_folder, reason

NAME, SHARED = "mlx-sam-audio.jsonl", ".mlx-sam-audio"


class Manifest:
    """The manifest of a folder. rank: of this process among several there."""

    def __init__(self, folder: Path, rank: int | None = None):
        self.folder, self.path, self.shared = folder, folder / NAME, folder / SHARED
        self._own = self.path if rank is None else self.shared / f"{rank}.jsonl"
        self._last: dict[str, dict[str, Any]] = {}
        self.take(lines(self.path))

    def take(self, rows: Iterable[dict[str, Any]]) -> None:
        """Know what these lines tell."""
        self._last |= {name: row for row in rows for name in row["outputs"]}

    def fold(self) -> None:
        """Take in what several processes told, none of which is at work any more."""
        paths = sorted(self.shared.glob("*.jsonl"))
        rows = [row for path in paths for row in lines(path)]
        rows.sort(key=lambda row: row.get("state") != "begun")  # one may go on with another's
        if rows := [row for row in rows if row.get("state") != "skipped"]:
            self._append(self.path, rows)
            self.take(rows)
        for path in paths:
            path.unlink(missing_ok=True)

    def is_done(self, outputs: Iterable[Path], fingerprint: str) -> bool:
        """Were these files written by the same run, and are they still there?"""
        return all(self._is(path, "done", fingerprint) and path.is_file() for path in outputs)

    def is_begun(self, outputs: Iterable[Path], fingerprint: str) -> bool:
        """Was the same run interrupted?"""
        return all(self._is(path, "begun", fingerprint) for path in outputs)

    def strangers(self, outputs: Iterable[Path]) -> list[Path]:
        """Files that are there and that we did not write."""
        there = (path for path in outputs if os.path.lexists(path))
        return [path for path in there if self._relative(path) not in self._last]

    def add(self, state: str, source: object, outputs: Sequence[Path], **more: Any) -> None:
        names = list(map(self._relative, outputs))
        row = {"state": state, "input": str(source), "outputs": names, **more}
        self.take([row])
        if self._own == self.path:
            make_folder(self.folder)
        self._append(self._own, [row])

    def skip(self, source: object) -> None:
        """Tell other processes, if there are any, that this recording was done before."""
        if self._own != self.path:
            self.add("skipped", source, [])

    def _append(self, path: Path, rows: Iterable[dict[str, Any]]) -> None:
        """Add lines, whole whatever stood before them."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        try:
            append(path, text)
        except FileNotFoundError:
            raise Cancelled(f"{path.parent} is gone: the others are done") from None
        except OSError as error:
            raise SAMAudioError(f"cannot write {path}: {reason(error)}") from None

    def _is(self, path: Path, state: str, fingerprint: str) -> bool:
        row = self._last.get(self._relative(path), {})
        return row.get("state") == state and row.get("fingerprint") == fingerprint

    def _relative(self, path: Path) -> str:
        return os.path.relpath(path, self.folder)


class Tail:
    """What is added to a file of lines."""

    def __init__(self, path: Path):
        self._path, self._known = path, 0

    def __call__(self) -> list[dict[str, Any]]:
        """The whole lines that came since this was asked for last."""
        text = content(self._path, self._known)
        text = text[: text.rfind(b"\n") + 1]
        self._known += len(text)
        return list(parsed(text))


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """What a manifest tells; a line that was torn when its writer was killed tells nothing."""
    return parsed(content(path))


def content(path: Path, start: int = 0) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise SAMAudioError(f"cannot read {path}: {reason(error)}") from None


def parsed(text: bytes) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and is_names(row.setdefault("outputs", [])):
                yield row


def is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def outputs(folder: Path) -> set[str]:
    """All files that the manifest in a folder names, where they really are."""
    paths = *folder.glob(f"{SHARED}/*.jsonl"), folder / NAME  # which takes those in
    rows = (row["outputs"] for path in paths for row in lines(path))
    return {os.path.realpath(folder / name) for names in rows for name in names}
