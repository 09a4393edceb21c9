"""Processes that work together and are killed or stopped at any moment: the same bits, no hang."""

import os
import shutil
import signal
import time
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import soundfile

from ..ranks import SEPARATE, ended, started
from .pool import Different

WORDS = [*SEPARATE, *"in -m demo -d beep --method euler --steps 5 --no-metrics -o out".split()]
LENGTHS = (0.5, 2.0, 0.3, 1.5, 1.0, 0.7)  # seconds


def sounds() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("out").glob("*.wav")}


@cache
def undisturbed() -> tuple[dict[str, bytes], float]:
    """What is made of the recordings by two processes, and in how many seconds."""
    start = time.monotonic()
    with started(2, *WORDS) as ranks:
        for status, _, said in map(ended, ranks):
            assert status == 0, said
    found, seconds = sounds(), time.monotonic() - start
    shutil.rmtree("out")
    return found, seconds


def folder(how: str, rank: str, moment: str) -> None:
    """One of three is killed or stopped: the others make all, or a rerun does."""
    expected, seconds = undisturbed()
    with started(3, *WORDS, "--lease", "2") as ranks:
        time.sleep(float(moment) * seconds)
        struck = ranks.pop(int(rank))
        struck.send_signal(getattr(signal, f"SIG{how}"))
        for status, _, said in map(ended, ranks):
            if status or "Traceback" in said:
                raise Different(f"exit status {status}: {said[-300:]}")
        if how == "STOP":
            struck.send_signal(signal.SIGCONT)
            status, _, said = ended(struck)
            if "Traceback" in said or status not in (0, 2):
                raise Different(f"awake again, exit status {status}: {said[-300:]}")
    with started(1, *WORDS) as (last,):
        status, _, said = ended(last)
    left = {path.name for path in Path("out").iterdir()} - {*expected, "mlx-sam-audio.jsonl"}
    if status or left or sounds() != expected:
        raise Different(f"exit status {status}, not the same bits, or {left} are left: {said}")


def draw(rng: Random) -> str:
    return f"folder {rng.choice(['KILL', 'STOP'])} {rng.randrange(3)} {rng.random():.3f}"


def check(recipe: str) -> None:
    name, *words = recipe.split()
    generator = np.random.default_rng(0)
    os.makedirs("in", exist_ok=True)
    for i, length in enumerate(LENGTHS):
        samples = generator.normal(0, 0.1, int(length * 16_000))
        soundfile.write(f"in/{i}.wav", samples, 16_000)
    {"folder": folder}[name](*words)
