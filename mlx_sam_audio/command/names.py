"""How results are called, and which sounds they are made of."""

import argparse
import os
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SAMAudioError
from ..files import slug, writable
from ..media import sound_files, video_files
from .prompts import Prompt

TEMPLATE = "{name}.{prompt}.{ext}"
FIELDS = ("name", "prompt", "ext", "index", "seed", "model")
FORMATS = tuple(suffix.removeprefix(".") for suffix in sound_files.WRITTEN)


@dataclass(frozen=True)
class Result:
    """A sound to write: so much of each prompt's target, of the rest and of the recording."""

    label: str  # in the report
    slug: str  # in names
    targets: tuple[float, ...]
    rest: float = 0.0
    recording: float = 0.0


@dataclass(frozen=True)
class Output:
    """A result, and the file that it is written to; piped: whose bytes then go to stdout."""

    result: Result
    path: Path
    piped: bool = False

    def __str__(self) -> str:
        return "stdout" if self.piped else str(self.path)

    @property
    def is_film(self) -> bool:
        return self.path.suffix.lower() in video_files.WRITTEN


def results(options: argparse.Namespace, prompts: Sequence[Prompt]) -> tuple[Result, ...]:
    """What is written of one recording."""
    verb, bed, only = prompts[0].verb, options.bed or 0.0, options.only
    if options.bed is not None and not verb:
        raise SAMAudioError("--bed is how loud the rest stays: it needs --keep or --remove")
    if only and verb:
        raise SAMAudioError(f"--{verb} makes one result: leave out --only")
    count, alone = len(prompts), len(prompts) == 1
    slugs = [slug(prompt.description) or ("target" if alone else f"target-{i}")
             for i, prompt in enumerate(prompts, 1)]  # fmt: skip
    if verb:
        word = verb if verb == "keep" else "less" if bed else "without"
        one, rest = (1.0, bed) if verb == "keep" else (bed, 1.0)
        found = [Result("result", f"{word}-{'-and-'.join(slugs)}", count * (one,), rest)]
    else:
        labels = ["target"] if alone else slugs
        rows = [tuple(float(i == k) for i in range(count)) for k in range(count)]
        found = [] if only == "residual" else list(map(Result, labels, slugs, rows))
        if only != "target":
            label = "residual" if alone else "rest"
            word = f"without-{slugs[0]}" if alone and prompts[0].description.strip() else label
            found.append(Result(label, word, count * (0.0,), 1.0))
    if options.mix:
        found.append(Result("mixture", "mixture", count * (0.0,), 0.0, 1.0))
    return tuple(found)


def template(text: str) -> str:
    """A checked template of names."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]
        text.format(**{**dict.fromkeys(fields, "x"), "index": 1, "seed": 1})
    except (ValueError, IndexError, KeyError, AttributeError):
        fields = [text]
    if unknown := [field for field in fields if field not in FIELDS]:
        known = ", ".join(f"{{{field}}}" for field in FIELDS)
        raise SAMAudioError(f"--name knows {known}, not {unknown[0]!r}")
    if os.path.isabs(text) or ".." in Path(text).parts:
        raise SAMAudioError(f"--name {text} leads out of the folder of results: -o names that")
    return text if "{ext}" in text else f"{text}.{{ext}}"


def is_folder(place: str) -> bool:
    """Does -o name a folder, which need not be there yet?"""
    separators = tuple(filter(None, (os.sep, os.altsep)))
    return place.endswith(separators) or os.path.isdir(place) or not Path(place).suffix


def in_folder(
    place: str, found: Sequence[Result], pattern: str, values: dict[str, object]
) -> list[Output]:
    """Results in a folder, by the template of their names."""
    values = {
        name: value if isinstance(value, int) else str(value).replace(os.sep, "-")
        for name, value in values.items()
    }
    outputs = []
    for result in found:
        name = pattern.format(**values, prompt=result.slug)
        if Path(name).name.startswith("."):
            raise SAMAudioError(f"--name {pattern} would hide {name}: begin it with something else")
        outputs.append(Output(result, Path(place, name)))
    return outputs


def as_file(path: Path, found: Sequence[Result]) -> list[Output]:
    """The first result in this file, the others beside it."""
    stem = path.stem.removesuffix(".target")
    first, *others = found
    beside = [Output(x, path.with_name(f"{stem}.{x.label}{path.suffix}")) for x in others]
    return [Output(first, path), *beside]


def check(outputs: Sequence[Output], source: Path) -> None:
    """They can be written, before any work is done for them."""
    kinds = (*sound_files.WRITTEN, *video_files.WRITTEN)
    for output in outputs:
        writable(output.path, kinds)
    if any(output.is_film for output in outputs):
        video_files.duration(source)  # it must have pictures to copy


def check_form(outputs: Sequence[Output], rate: int, bits: int | None) -> None:
    """Their formats hold such sound."""
    for output in outputs:
        if output.is_film:
            video_files.check(output.path, rate)
        else:
            sound_files.check(output.path, rate, bits)


def check_apart(rows: Sequence[tuple[object, Path, Sequence[Output]]]) -> None:
    """No file is written twice, or is a recording. Rows: a recording's name, its file, outputs."""
    sources = {identity(path): name for name, path, _ in rows}
    taken: dict[str, tuple[object, Result]] = {}
    for name, _, outputs in rows:
        for output in outputs:
            key = identity(output.path)
            if key in sources:
                raise SAMAudioError(
                    f"{output.path} is a recording itself: inputs and outputs are different files"
                )
            if key in taken:
                other, result = taken[key]
                pair, hint = f"{other} and {name}", "--name with {index} tells them apart"
                if str(other) == str(name):
                    pair = f"{result.label} and {output.result.label} of {name}"
                    hint = "name them, or what you ask for, differently"
                raise SAMAudioError(f"{pair} would both be written to {output.path}: {hint}")
            taken[key] = name, output.result


def identity(path: Path) -> str:
    """The same for all names of a file, where cases or forms of letters make no difference, too."""
    return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()
