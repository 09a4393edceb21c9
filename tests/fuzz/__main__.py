"""python -m tests.fuzz [PART ...]: damaged files, strange settings and faults, until one gets by.

A case is a line of words, its recipe, drawn by its number; what is refused in a sentence, or comes
out right, is good. Ends with a table, and with exit status 1 after anything else.
"""

import argparse
import collections
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from . import faults, media, models, settings, states
from .pool import GOOD, OUTCOMES, run

CORPUS = Path(__file__).parent / "corpus"
PARTS = {  # part: how a recipe is drawn, and what is done with it
    "convert": (models.draw_source, models.check_convert),
    "load": (models.draw_model, models.check_load),
    "load-unhashed": (models.draw_weights, models.check_unhashed),
    "sound": (media.draw_sound, media.check_sound),
    "command": (media.draw_command, media.check_command),
    "video": (media.draw_video, media.check_video),
    "mask": (media.draw_mask, media.check_mask),
    "options": (settings.draw_option, settings.check_option),
    "api": (settings.draw_call, settings.check_call),
    "resume": (states.draw, states.check),
    "faults": (faults.draw, faults.check),
}


def cases(part: str, options: argparse.Namespace, done: set):
    """(number, recipe): what was found before, then as many as are wanted."""
    found = CORPUS / f"{part}.txt"
    recipes = found.read_text().splitlines() if found.exists() and not options.start else []
    recipes = options.recipe or recipes
    yield from ((None, recipe) for recipe in recipes)
    until = time.monotonic() + (options.seconds or 10**9)
    for number in range(options.start, options.start + (0 if options.recipe else options.cases)):
        if time.monotonic() > until:
            return
        if number not in done:
            yield number, PARTS[part][0](Random(f"{part} {options.seed} {number}"))


def fuzz(part: str, options: argparse.Namespace, folder: Path, log) -> collections.Counter:
    counts, done = collections.Counter(), set()
    for line in log:
        name, seed, number, _, outcome, _ = json.loads(line)
        if (name, seed) == (part, options.seed) and number is not None:
            done.add(number)
            counts[outcome] += 1
    todo = cases(part, options, done)
    for number, recipe, outcome, words in run(
        PARTS[part][1],
        todo,
        folder,
        options.workers,
        options.limit * (10 if part == "faults" else 1),
    ):
        counts[outcome] += 1
        if log:
            entry = [part, options.seed, number, recipe, outcome, words]
            log.write(json.dumps(entry) + "\n")
            log.flush()
        if outcome not in GOOD:
            again = f"--seed {options.seed} --from {number} --cases 1"
            if number is None:
                again = f"--recipe {recipe!r}"
            print(
                f"{outcome}: {recipe}: {words}\n    python -m tests.fuzz {part} {again}", flush=True
            )
    return counts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--cases", type=int, default=200, help="of each part (200)")
    parser.add_argument("--seconds", type=float, help="begin no case after so many, in each part")
    parser.add_argument("--seed", type=int, default=0, help="decides every case")
    parser.add_argument("--from", type=int, default=0, dest="start", help="the first case's number")
    parser.add_argument("--recipe", action="append", help="this case alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=30, help="seconds a case may take")
    parser.add_argument(
        "--log", help="write every case there; what is there already is not repeated"
    )
    options = parser.parse_args(arguments)
    table = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["FUZZ_FOLDER"] = folder
        for module in (models, media):
            module.prepare(Path(folder))
        for part in options.parts or PARTS:
            log = open(options.log, "a+") if options.log else ()
            if log:
                log.seek(0)
            table[part] = fuzz(part, options, Path(folder), log)
    print(f"| part | cases | {' | '.join(OUTCOMES)} |\n|{'---|' * (len(OUTCOMES) + 2)}")
    for part, counts in table.items():
        numbers = [counts.total(), *(counts[outcome] for outcome in OUTCOMES)]
        print(f"| {part} | {' | '.join(map(str, numbers))} |")
    return int(any(counts[bad] for counts in table.values() for bad in OUTCOMES if bad not in GOOD))


if __name__ == "__main__":
    sys.exit(main())
