"""Processes that work together and are killed or stopped at any moment: the same bits, no hang."""

import os
import shutil
import signal
import subprocess
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


def strike(rank: subprocess.Popen, how: str) -> None:
    rank.send_signal(getattr(signal, f"SIG{how}"))
    if how == "KILL":
        rank.wait()  # until then it seems to run


def folder(how: str, rank: str, moment: str) -> None:
    """One of three is killed or stopped: the others make all, or a rerun does."""
    expected, seconds = undisturbed()
    with started(3, *WORDS, "--lease", "2") as ranks:
        time.sleep(float(moment) * seconds)
        struck = ranks.pop(int(rank))
        strike(struck, how)
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


LONG = [*SEPARATE, *"long.wav -m demo -d beep --window 1 --overlap 0.2 --method euler".split()]
LONG += "--steps 6 --no-metrics -o long/o.wav --resume".split()


@cache
def alone() -> tuple[list[np.ndarray], float]:
    """The stems of the long recording by one process, and the seconds of two."""
    with started(1, *LONG) as (one,):
        assert ended(one)[0] == 0
    found = stems()
    shutil.rmtree("long")
    start = time.monotonic()
    with started(2, *LONG) as ranks:
        assert [ended(rank)[0] for rank in ranks] == [0, 0]
    seconds = time.monotonic() - start
    shutil.rmtree("long")
    return found, seconds


def stems() -> list[np.ndarray]:
    return [soundfile.read(path, dtype="float32")[0] for path in sorted(Path("long").glob("*.wav"))]


def long(how: str, rank: str, moment: str, count: str) -> None:
    """One of two is killed or stopped: the other ends, and so many go on."""
    expected, seconds = alone()
    with started(2, *LONG, "--lease", "3") as ranks:
        time.sleep(float(moment) * seconds)
        struck = ranks.pop(int(rank))
        strike(struck, how)
        status, _, said = ended(ranks[0], 100)
        if status not in (0, 2, 75) or "Traceback" in said:
            raise Different(f"exit status {status}: {said[-300:]}")
    with started(int(count), *LONG) as ranks:
        found = [ended(rank)[::2] for rank in ranks]
    if any(status for status, _ in found) or len(list(Path("long").iterdir())) > 2:
        raise Different(f"afterwards: {found}, {list(Path('long').iterdir())}")
    if not all(np.allclose(*pair, atol=1e-5) for pair in zip(stems(), expected, strict=True)):
        raise Different("another result")


def draw(rng: Random) -> str:
    how, moment = rng.choice(["KILL", "STOP"]), f"{rng.random():.3f}"
    if rng.random() < 0.5:
        return f"long {how} {rng.randrange(2)} {moment} {rng.choice([1, 2, 3])}"
    return f"folder {how} {rng.randrange(3)} {moment}"


def check(recipe: str) -> None:
    name, *words = recipe.split()
    generator = np.random.default_rng(0)
    os.makedirs("in", exist_ok=True)
    for i, length in enumerate(LENGTHS):
        samples = generator.normal(0, 0.1, int(length * 16_000))
        soundfile.write(f"in/{i}.wav", samples, 16_000)
    soundfile.write("long.wav", generator.normal(0, 0.1, 16_000 + 8 * 12_800), 16_000)
    {"folder": folder, "long": long}[name](*words)
