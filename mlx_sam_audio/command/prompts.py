"""What is wanted of a recording: prompts, and the spans, boxes and masks that belong to each."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import SAMAudioError
from ..files import existing, reason
from ..loading.store import nearest, store
from ..media.video import MaskedVideo
from ..prompts import Span, check_prompt

PRESETS = Path(__file__).parent / "presets"
BEGIN = {"description": "", "remove": "remove", "keep": "keep"}  # option: what is done with it


@dataclass(frozen=True)
class Prompt:
    """One sound. verb: "remove" or "keep", or none where it is a result itself."""

    description: str = ""
    spans: tuple[Span, ...] = ()
    box: str | None = None
    mask: str | None = None
    verb: str = ""

    def video(self, pictures: str | os.PathLike | None, source: Path) -> MaskedVideo | None:
        """What is shown of the sound. pictures: where it is seen, if not in the recording."""
        if self.box and self.mask:
            raise SAMAudioError("--box and --mask say the same: give one of them")
        if not (self.box or self.mask or pictures):
            return None
        mask = self.mask
        if self.box:
            try:
                mask = tuple(map(int, self.box.split(",")))
            except ValueError:
                raise SAMAudioError(
                    f"cannot read the box {self.box!r}: write X0,Y0,X1,Y1"
                ) from None
        return MaskedVideo(pictures or source, mask)

    def check(self, shown: bool) -> None:
        check_prompt(self.description, self.spans, shown or self.box or self.mask)


def asked(options: argparse.Namespace) -> tuple[Prompt, ...]:
    """The prompts of the command line. What stands before the first belongs to it."""
    groups: list[dict] = [{}]
    for kind, value in expanded(options.asked):
        if kind in BEGIN and "description" in groups[-1]:
            groups.append({})
        if kind in BEGIN:
            groups[-1].update(description=value, verb=BEGIN[kind])
        elif kind == "span":
            groups[-1].setdefault("spans", []).append(Span.parse(value))
        elif kind in groups[-1]:
            raise SAMAudioError(f"a prompt has one --{kind}: {value} is a second")
        else:
            groups[-1][kind] = value
    found = [Prompt(**{**group, "spans": tuple(group.get("spans", ()))}) for group in groups]
    if len({prompt.verb for prompt in found}) > 1:
        raise SAMAudioError("-d, --remove and --keep make results of their own: use one of them")
    if options.labels:
        found = labelled(found, options.labels)
    marked = any(prompt.box or prompt.mask for prompt in found)
    if options.video and len(found) > 1 and not marked:
        raise SAMAudioError("a --video without boxes or masks shows one thing: give one prompt")
    for prompt in found:
        prompt.check(bool(options.video) and not marked)
    return tuple(found)


def expanded(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same with the prompts of presets instead of their names."""
    found = []
    for kind, value in rows:
        own = kind != "preset"
        found += [(kind, value)] if own else [("description", text) for text in preset(value)]
    return found


def presets() -> dict[str, Path]:
    """The files of all presets, the user's own ones, too, by name."""
    try:
        own = (store() / "presets").glob("*.txt")
        return {path.stem: path for path in (*PRESETS.glob("*.txt"), *own)}
    except (OSError, SAMAudioError):  # the store cannot be read, of which others will tell
        return {path.stem: path for path in PRESETS.glob("*.txt")}


def preset(name: str) -> list[str]:
    """Its prompts, in order. name: of a preset, or a path."""
    known = presets()
    if name not in known and not os.path.isfile(name):
        hint = nearest(name, list(known)) or f": there are {', '.join(sorted(known))}"
        raise SAMAudioError(f"there is no preset {name}{hint}")
    path = known.get(name) or Path(name)
    lines = (line.partition("#")[0].strip() for line in text_of(path).splitlines())
    if found := [line for line in lines if line]:
        return found
    raise SAMAudioError(f"the preset {path} holds no prompts: write one in each line")


def text_of(path: str | Path) -> str:
    """What a text file says, with or without the mark that Windows puts before it."""
    try:
        return existing(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SAMAudioError(f"cannot read {path}: it is no text in UTF-8") from None
    except OSError as error:
        raise SAMAudioError(f"cannot read {path}: {reason(error)}") from None


def labelled(prompts: Sequence[Prompt], path: str) -> list[Prompt]:
    """Prompts with the spans of a label track. A label is the prompt that it belongs to; with "-"
    before it, the sound is not there. Of one prompt, labels may be anything."""
    spans: list[list[Span]] = [[] for _ in prompts]
    names = [prompt.description.casefold().strip() for prompt in prompts]
    for number, line in enumerate(text_of(path).splitlines(), 1):
        if not line.strip() or line.startswith("\\"):  # frequencies of the label before
            continue
        start, end, label = [*line.split("\t"), "", ""][:3]
        sign = "-" if label.strip().startswith("-") else "+"
        name = label.strip().removeprefix("-").strip().casefold()
        try:
            span = Span(sign, *(float(time.replace(",", ".")) for time in (start, end)))
        except (ValueError, SAMAudioError) as error:
            why = error if isinstance(error, SAMAudioError) else "it has no start and end"
            raise SAMAudioError(f"cannot read line {number} of {path}: {why}") from None
        if name not in names and len(prompts) > 1:
            raise SAMAudioError(
                f"line {number} of {path} is labelled {label.strip()!r}, which is none of the "
                f"prompts {', '.join(prompt.description for prompt in prompts)}"
            )
        spans[names.index(name) if name in names else 0].append(span)
    return [
        replace(prompt, spans=(*prompt.spans, *more))
        for prompt, more in zip(prompts, spans, strict=True)
    ]
