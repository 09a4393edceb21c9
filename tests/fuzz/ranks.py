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
from ..serving import Server, mixture
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
        struck.kill()
        struck.wait()
        if status not in (0, 2, 75) or "Traceback" in said:
            raise Different(f"exit status {status}: {said[-300:]}")
    with started(int(count), *LONG) as ranks:
        found = [ended(rank)[::2] for rank in ranks]
    if any(status for status, _ in found) or len(list(Path("long").iterdir())) > 2:
        raise Different(f"afterwards: {found}, {list(Path('long').iterdir())}")
    if not all(np.allclose(*pair, atol=1e-5) for pair in zip(stems(), expected, strict=True)):
        raise Different("another result")


def server(how: str, rank: str, moment: str) -> None:
    """One of a server's three is killed or stopped: the others make all jobs, or the next do."""
    home, options = Path.cwd(), ("--model", "demo", "--lease", "2s", "--keep", "kept")
    for again in (False, True):
        served = Server(*options, home=home, ranks=3)
        processes = [served.process, served.beside(1), served.beside(2)]
        try:
            while served("GET", "/health").json["workers"] < 3:
                time.sleep(0.1)
            file = served.upload(mixture())
            asked = {"description": "a bell", "steps": 40, "method": "euler"}
            jobs = [served.ask(file, **asked) for _ in range(4)]
            if not again:
                time.sleep(10 * float(moment))
                strike(processes[int(rank)], how)
                if rank == "0":
                    if [process.wait(20) for process in processes[1:]] != [75, 75]:
                        raise Different("the others did not end with 75")
                    continue
            found = [served.stem(served.done(job), "target") for job in jobs]
            if not all((one == found[0]).all() for one in found) or not found[0].any():
                raise Different("jobs that are the same sound different")
            if "Traceback" in Path("log").read_text():
                raise Different("a traceback in the log")
            return
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.communicate()
            served.log.close()


def draw(rng: Random) -> str:
    how, moment = rng.choice(["KILL", "STOP"]), f"{rng.random():.3f}"
    what = rng.choice(["folder", "long", "server"])
    if what == "long":
        return f"long {how} {rng.randrange(2)} {moment} {rng.choice([1, 2, 3])}"
    return f"{what} {how} {rng.randrange(3)} {moment}"


def check(recipe: str) -> None:
    name, *words = recipe.split()
    generator = np.random.default_rng(0)
    os.makedirs("in", exist_ok=True)
    for i, length in enumerate(LENGTHS):
        samples = generator.normal(0, 0.1, int(length * 16_000))
        soundfile.write(f"in/{i}.wav", samples, 16_000)
    soundfile.write("long.wav", generator.normal(0, 0.1, 16_000 + 8 * 12_800), 16_000)
    {"folder": folder, "long": long, "server": server}[name](*words)
