"""Damaged files, strange settings and faults, until one gets by: python -m tests.fuzz [PART ...]

A case is a line of words, its recipe, drawn by its number. What is refused in a sentence, or comes
out right, is good; "plausible" are whole files with other numbers in them, which only a checksum
could tell. Ends with a table, and with exit status 1 after anything else.
"""

import argparse
import collections
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from . import faults, media, models, ranks, settings, states
from .pool import GOOD, OUTCOMES, run

CORPUS = Path(__file__).with_name("corpus.txt")  # a part and a recipe in every line
PARTS = {  # part: how a recipe is drawn, what is done with it, and its share of --cases
    "convert": (partial(models.draw, "source", ""), models.check_convert, 0.3),
    "load": (partial(models.draw, "model", ""), models.check_load, 1),
    "load-unhashed": (partial(models.draw, "model", ".safetensors"), models.check_unhashed, 0.3),
    "sound": (partial(media.draw, "sound"), media.check_sound, 1),
    "command": (partial(media.draw, "command"), media.check_command, 0.3),
    "video": (partial(media.draw, "video"), media.check_video, 0.3),
    "mask": (partial(media.draw, "mask"), media.check_mask, 0.3),
    "options": (settings.draw_option, settings.check_option, 1),
    "api": (settings.draw_call, settings.check_call, 1),
    "resume": (states.draw, states.check, 1),
    "faults": (faults.draw, faults.check, 0.05),
    "ranks": (ranks.draw, ranks.check, 0.02),
}


def cases(part: str, options: argparse.Namespace, done: set[int]) -> Iterator[tuple]:
    """(number, recipe): what was found before, then as many as are wanted."""
    lines = [line.split(" ", 1) for line in CORPUS.read_text().splitlines()]
    found = [recipe for name, recipe in lines if name == part and not options.start]
    yield from ((None, recipe) for recipe in options.recipe or found)
    until = time.monotonic() + (options.seconds or 10**9)
    draw, _, share = PARTS[part]
    for number in range(options.start, options.start + max(1, round(share * options.cases))):
        if time.monotonic() > until or options.recipe:
            return
        if number not in done:
            yield number, draw(Random(f"{part} {options.seed} {number}"))


def fuzz(part: str, options: argparse.Namespace, log) -> collections.Counter:
    """How often a part ended how."""
    counts, done = collections.Counter(), set()
    log.seek(0)
    for name, seed, number, _, outcome, _ in map(json.loads, log):
        if (name, seed) == (part, options.seed) and number is not None:
            done.add(number)
            counts[outcome] += 1
    limit = options.limit * (10 if part == "faults" else 1)
    for case in run(PARTS[part][1], cases(part, options, done), options.workers, limit):
        number, recipe, outcome, words = case
        counts[outcome] += 1
        log.write(json.dumps([part, options.seed, *case]) + "\n")
        log.flush()
        if outcome not in GOOD:
            again = f"--seed {options.seed} --from {number} --cases 1"
            again = f"--recipe {recipe!r}" if number is None else again
            print(f"{outcome}: {recipe[:200]}: {words}\n    python -m tests.fuzz {part} {again}")
            sys.stdout.flush()
    return counts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all of {', '.join(PARTS)}")
    parser.add_argument("--cases", type=int, default=200, help="(%(default)s) fewer of slow parts")
    parser.add_argument("--seconds", type=float, help="begin no case after so many, in each part")
    parser.add_argument("--seed", type=int, default=0, help="decides every case")
    parser.add_argument("--from", type=int, default=0, dest="start", help="the first case's number")
    parser.add_argument("--recipe", action="append", help="this case alone; may be repeated")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=60, help="seconds a case may take")
    parser.add_argument("--log", default=os.devnull, help="cases already in it are not repeated")
    options = parser.parse_args(arguments)
    table = {}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        open(options.log, "a+") as log,
    ):
        os.environ.update(HOME=folder, SAM_AUDIO_HOME="", HF_HUB_OFFLINE="1")  # of the workers
        tempfile.tempdir = folder
        models.prepare()
        media.prepare()
        for part in options.parts or PARTS:
            table[part] = fuzz(part, options, log)
    print(f"| part | cases | {' | '.join(OUTCOMES)} |\n|{'---|' * (len(OUTCOMES) + 2)}")
    for part, counts in table.items():
        numbers = [counts.total(), *(counts[outcome] for outcome in OUTCOMES)]
        print(f"| {part} | {' | '.join(map(str, numbers))} |")
    return int(any(outcome not in GOOD for counts in table.values() for outcome in counts))


if __name__ == "__main__":
    sys.exit(main())
