"""What was done in a folder of results: a line of JSON when a recording is begun, done or failed.

Every line names the files that it is about, relative to the folder; the last one that names a file
is what counts. So a run that was killed is finished by the same command, and nobody else's file is
replaced.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import SAMAudioError
from ..files import make_folder, reason

NAME = "mlx-sam-audio.jsonl"


class Manifest:
    """The manifest of a folder."""

    def __init__(self, folder: Path):
        self.path = folder / NAME
        self._folder = folder
        self._last = {name: row for row in lines(self.path) for name in row["outputs"]}

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
        """Add a line, whole whatever stood before it."""
        names = list(map(self._relative, outputs))
        row = {"state": state, "input": str(source), "outputs": names, **more}
        self._last |= dict.fromkeys(names, row)
        make_folder(self._folder)
        try:
            with open(self.path, "ab+") as file:
                if size := file.seek(0, os.SEEK_END):
                    file.seek(size - 1)
                torn = size and file.read(1) != b"\n"
                file.write(b"\n" * torn + json.dumps(row).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SAMAudioError(f"cannot write {self.path}: {reason(error)}") from None

    def _is(self, path: Path, state: str, fingerprint: str) -> bool:
        row = self._last.get(self._relative(path), {})
        return row.get("state") == state and row.get("fingerprint") == fingerprint

    def _relative(self, path: Path) -> str:
        return os.path.relpath(path, self._folder)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """What a manifest tells; a line that was torn when its writer was killed tells nothing."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise SAMAudioError(f"cannot read {path}: {reason(error)}") from None
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and is_names(row.setdefault("outputs", [])):
                yield row


def is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def outputs(folder: Path) -> set[str]:
    """All files that the manifest in a folder names, where they really are."""
    rows = (row["outputs"] for row in lines(folder / NAME))
    return {os.path.realpath(folder / name) for names in rows for name in names}
