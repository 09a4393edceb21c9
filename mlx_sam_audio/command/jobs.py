"""What is to be done: recordings, what is wanted of each, and the files that it is written to."""

import argparse
import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import SAMAudioError
from ..prompts import Span
from . import names
from .inputs import Source, sources
from .names import Output
from .prompts import Prompt, asked, text_of

COLUMNS = ("file", "prompt", "spans")


@dataclass(frozen=True)
class Job:
    """A recording, what is wanted of it, and where that goes."""

    source: Source
    prompts: tuple[Prompt, ...]
    outputs: tuple[Output, ...] = ()

    @property
    def paths(self) -> list[Path]:
        return [output.path for output in self.outputs]

    @property
    def size(self) -> int:
        """About how much work it is."""
        try:
            return self.source.path.stat().st_size
        except (OSError, ValueError):
            return 0


def wanted(options: argparse.Namespace, spool: Path | None) -> tuple[list[Job], bool]:
    """What the options ask for, without outputs yet, and whether it may be many recordings."""
    if options.jobs:
        if options.inputs or options.asked or options.labels:
            raise SAMAudioError("--jobs says which recordings and prompts: leave out all others")
        return table(Path(options.jobs)), True
    found, many = sources(options.inputs, options.recursive, spool)
    prompts = asked(options) if not (options.pick or options.preview) else marked(options)
    return [Job(source, prompts) for source in found], many


def marked(options: argparse.Namespace) -> tuple[Prompt, ...]:
    """What is marked in the pictures, which are only to be drawn."""
    return (Prompt(**{kind: value for kind, value in options.asked if kind in ("box", "mask")}),)


def planned(
    options: argparse.Namespace, jobs: Sequence[Job], many: bool, values: dict[str, object]
) -> list[Job]:
    """The same with their outputs. values: what names are made of, beside what jobs tell."""
    pattern, place = names.template(options.name), options.output or ""
    folder = not place or names.is_folder(place)
    if not folder:
        check_file(options, jobs[0], many)
    found = []
    for index, job in enumerate(jobs, 1):
        results = names.results(options, job.prompts)
        if folder:
            told = {**values, "name": Path(job.source.name).stem, "index": index}
            outputs = names.in_folder(Path(place, job.source.folder), results, pattern, told)
        else:
            outputs = names.as_file(Path(place), results)
        if options.piped:
            outputs = [replace(outputs[0], piped=True)]
        if options.rest:
            outputs = with_rest(outputs, options.rest, many)
        found.append(Job(job.source, job.prompts, tuple(outputs)))
    names.check_apart([(job.source, job.source.path, job.outputs) for job in found])
    return found


def check_file(options: argparse.Namespace, job: Job, many: bool) -> None:
    """Raises SAMAudioError where -o is one file, or stdout, and there is more to write."""
    results = names.results(options, job.prompts)
    sounds = [result for result in results if not result.recording]
    if options.piped and (many or len(results) > 1):
        raise SAMAudioError("-o - writes one result of one recording: name a folder for more")
    if many or len(job.prompts) > 1 and len(sounds) > 1:
        what = "many recordings" if many else "several prompts"
        raise SAMAudioError(f"{what} make several files: name a folder for them, like -o results/")
    if options.name != names.TEMPLATE:
        raise SAMAudioError("--name is for results in a folder: -o names a file already")
    if options.format and Path(options.output).suffix.lower() != f".{options.format}":
        raise SAMAudioError(
            f"-o {options.output} is no {options.format}: leave out --format, or name it so"
        )


def with_rest(outputs: Sequence[Output], place: str, many: bool) -> list[Output]:
    """The same with the rest in a file of its own."""
    rests = [output for output in outputs if output.result.label in ("residual", "rest")]
    if many or not rests:
        what = "of one recording" if many else "which is not written here"
        raise SAMAudioError(f"--residual names the rest, {what}: leave it out")
    return [Output(x.result, Path(place)) if x in rests else x for x in outputs]


def table(path: Path) -> list[Job]:
    """The jobs of a CSV file with the columns file, prompt and, if needed, spans. Rows of one file
    are its stems; paths are relative to the table."""
    text = text_of(path)
    header = text.partition("\n")[0]
    rows = csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=header.count))
    rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
    if not {"file", "prompt"} <= set(rows.fieldnames) <= set(COLUMNS):
        raise SAMAudioError(f"the first line of {path} must be {','.join(COLUMNS)}")
    found: dict[str, list[Prompt]] = {}
    for row in rows:
        where = f"line {rows.line_num} of {path}"
        if None in row or not (row["file"] or "").strip():
            raise SAMAudioError(f"{where} has not the columns {','.join(COLUMNS)}")
        spans = re.split(r"[\s;,]+", (row.get("spans") or "").strip())
        try:
            times = tuple(map(Span.parse, filter(None, spans)))
            prompt = Prompt((row["prompt"] or "").strip(), times)
            prompt.check(False)
        except SAMAudioError as error:
            raise SAMAudioError(f"{where}: {error}") from None
        found.setdefault(row["file"].strip(), []).append(prompt)
    if not found:
        raise SAMAudioError(f"{path} names no recordings")
    return [Job(listed(path, name), tuple(prompts)) for name, prompts in found.items()]


def listed(path: Path, name: str) -> Source:
    """A recording that a table names; its results keep the folder that it names."""
    folder = Path(name).parent
    outside = folder.is_absolute() or ".." in folder.parts
    return Source(path.parent / name, name, Path() if outside else folder)
