"""Runs that are killed, stopped, starved of room or robbed of their input: the right result and
nothing else, or one sentence."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import cache, partial
from pathlib import Path
from random import Random

import numpy as np
import soundfile

import mlx_sam_audio

from .models import base
from .pool import Different

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(mlx_sam_audio.__file__).parents[1])}
LONG = "--window 3 --overlap 1 --method euler --steps 6 --no-metrics".split()
TOLD = "-X", "importtime"  # a run says on stderr what it imports
STARTED = "mlx_sam_audio.command.terminal"  # before it, signals are Python's
SIGNALS = {"INT": 130, "TERM": 143, "HUP": 129}
MOUNTS = sys.platform == "linux" and os.geteuid() == 0
FULL = {  # what is written, how many bytes are just enough for it, and how it is asked for
    "wav": (780_000, "-o o.wav"),
    "flac": (780_000, "-o o.flac"),
    "mp4": (40_000, "-o o.mp4"),
    "mov": (200_000, "-o o.mov"),
    "mkv": (130_000, "-o o.mkv"),
    "convert": (2_400_000, "out"),
    "pair": (780_000, "-o ../o.wav --residual r.wav"),
    "png": (60_000, "-o ../o.wav --spectrogram o.png"),
    "json": (2_000, "-o ../o.wav --metrics-json o.json"),
}


def separate(*more: str, source: str = "in.wav", output: str = "o.wav") -> list[str]:
    words = ["mlx_sam_audio.separate", "-m", "demo", "-i", source, "-d", "beep", *LONG, *more]
    return words if "-o" in more else [*words, "-o", output]


def convert(out: str = "out") -> list[str]:
    return ["convert", "--hf-path", str(base("source", "tiny")), "--mlx-path", out]


def started(module: list[str], *flags: str, said: str = "said", **options) -> subprocess.Popen:
    words = [sys.executable, *flags, "-m", *module]
    with open(said, "wb") as file:
        return subprocess.Popen(words, env=ENVIRONMENT, stderr=file, **options)


def ended(process: subprocess.Popen, said: str = "said") -> tuple[int, list[str]]:
    """The exit status of a run, and the lines that it said."""
    process.wait(200)
    lines = Path(said).read_text().splitlines()
    return process.returncode, [x for x in lines if not x.startswith(("import time:", "note:"))]


def after(seconds: float, process: subprocess.Popen) -> None:
    """Wait so long from our first lines on, or until the process ends."""
    while STARTED not in Path("said").read_text() and process.poll() is None:
        time.sleep(0.005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def recording(name: str, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.1, 12 * 16_000)
    tone = np.sin(0.4 * np.arange(len(noise))) * (np.arange(len(noise)) % 16_000 < 4000)
    soundfile.write(name, noise + 0.3 * tone, 16_000, subtype="FLOAT")


def stems(output: str = "o.wav") -> tuple[bytes, ...]:
    """Both outputs, or nothing if there is none."""
    paths = [Path(output), Path(output.replace(".", ".residual."))]
    found = tuple(path.read_bytes() for path in paths if path.exists())
    if len(found) == 1:
        raise Different("one of two outputs is there")
    return found


@cache
def undisturbed(*more: str) -> tuple[tuple[bytes, ...], float]:
    """The outputs of a run that nothing disturbs, and its seconds."""
    start = time.monotonic()
    status, said = ended(started(separate(*more, output="whole.wav")))
    assert status == 0, said
    result = stems("whole.wav"), time.monotonic() - start
    for path in Path().glob("whole.*"):
        path.unlink()
    return result


def refused(status: int, said: list[str], expected: int = 2) -> None:
    """Raises Different unless a run ended with a sentence and nothing else."""
    beginning = "error: " if expected == 2 else "stopped"
    if status != expected or len(said) != 1 or not said[0].startswith(beginning):
        raise Different(f"exit status {status}, said {said[-4:]}")


def left(*allowed: str, folder: str = ".") -> None:
    found = {path.name for path in Path(folder).iterdir()} - {"in.wav", "said", *allowed}
    if found:
        raise Different(f"{sorted(found)} are left")


def killed(candidates: str, *moments: str) -> None:
    """kill -9 again and again, --resume in the end: the same bits."""
    more = "-c", candidates
    expected, seconds = undisturbed(*more)
    for moment in moments:
        process = started(separate("--resume", *more), *TOLD)
        after(float(moment) * seconds, process)
        process.kill()
        process.wait()
        if stems():
            break
    status, said = ended(started(separate("--resume", *more)))
    if status or said or stems() != expected:
        raise Different(f"resumed, exit status {status}, not the same bits: {said}")
    left("o.wav", "o.residual.wav")


def stopped(what: str, name: str, moment: str, times: str = "1") -> None:
    """A signal at any moment, or several: one line, the right status, nothing left."""
    _, seconds = undisturbed()
    process = started(convert() if what == "convert" else separate(), *TOLD)
    after(float(moment) * seconds, process)
    for _ in range(int(times)):
        process.send_signal(getattr(signal, f"SIG{name}"))
        time.sleep(0.01)
    status, said = ended(process)
    complete = Path("out").exists() if what == "convert" else bool(stems())
    over = status in (0, -getattr(signal, f"SIG{name}")) and not said
    if not (over and complete):  # or else Python was at its own end, where signals are Python's
        refused(status, said, SIGNALS[name])
        left(".o.wav.resume")


def changed(how: str, *more: str) -> None:
    """An input that changes while its sound is separated."""
    expected, _ = undisturbed(*more)
    recording("other.wav", 1)
    process = started(separate(*more))
    while not Path(".o.wav.resume").exists() and process.poll() is None:
        time.sleep(0.005)
    if how == "deleted":
        os.unlink("in.wav")
    elif how == "replaced":
        os.replace("other.wav", "in.wav")
    elif how == "truncated":
        os.truncate("in.wav", 200_000)
    else:
        shutil.copyfile("other.wav", "in.wav")
    status, said = ended(process)
    if status or stems() != expected:
        refused(status, said)
        left("other.wav", ".o.wav.resume")


def twins(delay: str) -> None:
    """Two processes with the same output: the whole result of one of them."""
    both = []
    for seed in "12":
        both.append((started(separate("--seed", seed), said=f"said{seed}"), f"said{seed}"))
        time.sleep(float(delay))
    for status, said in [ended(*each) for each in both]:
        if status or said:
            refused(status, said)
    if stems() not in [undisturbed("--seed", seed)[0] for seed in "12"]:
        raise Different("the outputs are of neither")


def full(how: str, kind: str, share: str) -> None:
    """A disk, or a limit of files, too small for an output of some kind: older ones stay."""
    enough, words = FULL[kind]
    more, room, folder = words.split(), int(float(share) * enough), Path("room")
    folder.mkdir()
    film = str(base("media", "good.mp4"))
    module = separate(*more, source=film if kind in ("mp4", "mov", "mkv") else "../in.wav")
    names = {more[-1], more[-1].replace(".", ".residual.")} if len(more) == 2 else {more[-1]}
    limit = room if how == "limit" else resource.RLIM_INFINITY
    with mounted(folder, room if how == "disk" else None):
        for name in names:
            (folder / name).touch()  # what was there before; a full disk holds no more
        if kind == "convert":
            module, _ = convert(), (folder / "out").unlink()
        limited = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
        status, said = ended(started(module, cwd=folder, preexec_fn=limited))
        if status:
            refused(status, said)
        written = [path.name for path in folder.glob("[!.]*") if path.stat().st_size]
        if bool(status) == bool(written):
            raise Different(f"exit status {status}, but {written} were written: {said}")
        left(*names, f".{more[-1]}.resume", folder="room")
    if kind == "pair" and status:
        left("room", ".o.wav.resume")


@contextlib.contextmanager
def mounted(folder: Path, size: int | None, *more: str):
    """A small disk, where a size is given."""
    if size is None:
        yield
        return
    options = ",".join([f"size={max(size, 8192)},nr_inodes=50", *more])
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


PLACES = "output", "folder", "report", "convert"


def locked(what: str) -> None:
    """A folder that may not be written to."""
    folder = Path("locked")
    folder.mkdir(mode=0o555)
    modules = (
        separate(output="locked/o.wav"),
        separate(output="locked/new/o.wav"),
        separate("--metrics-json", "locked/o.json"),
        convert("locked/out"),
    )
    with mounted(folder, 2**20 if MOUNTS else None, "ro"):  # root may write anywhere else
        refused(*ended(started(modules[PLACES.index(what)])))
    left("locked")


THREADS = """
import threading
import numpy as np
from mlx_sam_audio import SAMAudio, SAMAudioError
model, found = SAMAudio.from_pretrained("demo"), []
waves = [np.random.default_rng(i).normal(0, 0.1, 8000 + 4000 * i) for i in (0, 1)]
def one(i):
    return np.array(model.separate(waves[i], "beep", method="euler", steps=2).target)
def many(i):
    for _ in range(6):
        try:
            found.append(np.array_equal(one(i), right[i]))
        except SAMAudioError:
            pass
def threads(function, count, **options):
    return [threading.Thread(target=function, args=(i,), **options) for i in range(count)]
def run(threads):
    [t.start() for t in threads], [t.join() for t in threads]
"""
SCRIPTS = {  # what threads do; the exit status must be 0
    "two": "right = one(0), one(1); run(threads(many, 2)); assert found and all(found)",
    "other": "right = one(0), one(1); run(threads(many, 1)); assert found and all(found)",
    "exit": "run(threads(one, 1))",
    "running": "threads(one, 1, daemon=True)[0].start()",
}


def threads(which: str) -> None:
    words = [sys.executable, "-c", THREADS + SCRIPTS[which]]
    process = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)
    if process.returncode:
        raise Different(f"exit status {process.returncode}: {process.stderr.strip()[-300:]}")


FAULTS = (killed, stopped, changed, twins, full, locked, threads)


def draw(rng: Random) -> str:
    moment, signals = f"{rng.random():.3f}", [*SIGNALS]
    what, early = rng.choice(["separate", "convert"]), f"{rng.random() / 5:.3f}"
    change = rng.choice(["deleted", "replaced", "truncated", "overwritten"])
    count = rng.choice(["1", "2", "auto"])
    kind, alone = rng.choice([*FULL]), rng.choice([*FULL][:6])
    recipes = [
        " ".join(["killed", count, *(f"{rng.random():.3f}" for _ in range(5))]),
        *(f"stopped {what} {rng.choice(signals)} {time}" for time in (moment, early, early)),
        *(f"stopped separate INT {moment} 5", f"changed {change}", f"changed {change} --subtract"),
        *[f"full limit {alone} {moment}", *[f"full disk {kind} {moment}"] * MOUNTS] * 2,
        *(f"twins {moment}", f"threads {rng.choice([*SCRIPTS])}", f"locked {rng.choice(PLACES)}"),
    ]
    return rng.choice(recipes)


def check(recipe: str) -> None:
    name, *words = recipe.split()
    recording("in.wav", 0)
    {fault.__name__: fault for fault in FAULTS}[name](*words)
