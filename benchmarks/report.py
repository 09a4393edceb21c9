"""What all benchmarks share: options that tell their defaults, tables, a record in JSON.

options = report.parser(__doc__, model="demo", mixtures=24).parse_args(arguments)
report.head("stem", "SI-SDR")
report.line("target", report.mean(gains))
report.write(options, rows)
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks import machine
from mlx_sam_audio.command import terminal
from mlx_sam_audio.files import writable

T = TypeVar("T")


class Formatter(argparse.HelpFormatter):
    """Help that tells defaults, lists as they are typed."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default = action.default
        if default is None or default is False or default == argparse.SUPPRESS:
            return action.help
        words = default if isinstance(default, list | tuple) else [default]
        return f"{action.help} (default: {' '.join(map(str, words))})"


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


SHARED = {  # options of several benchmarks
    "model": (str, "a converted model"),
    "mixtures": (positive, "how many are made"),
    "seed": (int, "decides the mixtures"),
    "seconds": (float, "of audio"),
    "method": (str, "the solver"),
    "steps": (positive, "of the solver"),
    "rows": (Path, "keeps what is found of each mixture, to go on from after a stop"),
    "repeats": (positive, "after one run to warm up"),
}
SHORT = {"model": ["-m"]}


def parser(doc: str, **defaults: object) -> argparse.ArgumentParser:
    """With `--json`, and those of the shared options that `defaults` names."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0], formatter_class=Formatter)
    for name, default in defaults.items():
        kind, said = SHARED[name]
        made.add_argument(*SHORT.get(name, []), f"--{name}", type=kind, default=default, help=said)
    path = partial(writable, suffixes=(".json", ".jsonl"))
    said = "add a line to this file: the table's rows, the options, the machine and the date"
    made.add_argument("--json", metavar="PATH", type=path, help=said)
    return made


def each(options: argparse.Namespace, items: Sequence[T], measure: Callable[[T], Any]) -> list:
    """What `measure` finds of each item. With `--rows` it is kept as it is found, and not measured
    again where a run of the same options has kept it."""
    free = ("json", "rows", "mixtures", "picture")
    given = {name: value for name, value in vars(options).items() if name not in free}
    kept = {}
    if options.rows and options.rows.exists():
        rows = map(json.loads, options.rows.read_text().splitlines())
        kept = {row["item"]: row["found"] for row in rows if row["options"] == given}
    for i, item in enumerate(items):
        if i not in kept:
            kept[i] = measure(item)
            if options.rows:
                with open(options.rows, "a") as file:
                    print(json.dumps({"item": i, "options": given, "found": kept[i]}), file=file)
    return [kept[i] for i in range(len(items))]


def write(options: argparse.Namespace, rows: object) -> None:
    """The line of `--json`."""
    if options.json:
        given = {name: value for name, value in vars(options).items() if name != "json"}
        names = {
            "benchmark": Path(sys.argv[0]).stem,
            "options": given,
            "machine": machine.describe(),
        }
        with open(options.json, "a") as file:
            print(json.dumps({**names, "rows": rows}, default=str, allow_nan=False), file=file)


def line(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def head(*cells: str) -> None:
    line(*cells)
    print("|" + "---|" * len(cells))


def interval(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of a mean; one value has none."""
    return (
        1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    )


def mean(values: Iterable[float | None], form: str = ".1f", unit: str = "") -> str:
    """The mean of what is known and its interval; "-" where nothing is."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    half = interval(known)
    either = "" if half is None else f" ± {half:{form.lstrip('+')}}"
    return f"{np.mean(known):{form}}{either}{unit}"


def run(main: Callable[[list[str]], None]) -> None:
    """A benchmark: user errors are one line, as in the commands."""
    sys.stdout.reconfigure(errors="replace")  # not every terminal has arrows
    sys.exit(terminal.run(main))
