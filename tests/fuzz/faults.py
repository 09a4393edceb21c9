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
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import soundfile

import mlx_sam_audio

from . import models
from .pool import Different

RATE = 16_000
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(mlx_sam_audio.__file__).parents[1])}
LONG = [*"--window 3 --overlap 1 --method euler --steps 6 --no-metrics".split()]
TOLD = "-X", "importtime"  # a run says on stderr what it imports
STARTED = "mlx_sam_audio.terminal"  # where our first lines are; before it, signals are Python's
SIGNALS = {"INT": 130, "TERM": 143, "HUP": 129}
MOUNTS = sys.platform == "linux" and os.geteuid() == 0
ROOM = dict(wav=500_000, flac=300_000, mp4=20_000, mov=300_000, mkv=300_000, png=20_000, json=500)


def separate(*more: str, source: str = "in.wav", output: str = "o.wav") -> list[str]:
    words = ["mlx_sam_audio.separate", "-m", "demo", "-i", source, "-d", "beep", "-o", output]
    return [*words, *LONG, *more]


def started(module: list[str], *flags: str, **options) -> subprocess.Popen:
    words = [sys.executable, *flags, "-m", *module]
    with open("said", "wb") as said:
        return subprocess.Popen(
            words, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=said, **options
        )


def ended(process: subprocess.Popen) -> list[str]:
    """What it said in the end."""
    process.wait(120)
    lines = Path("said").read_text().replace("\r", "\n").splitlines()
    return [
        line for line in lines if line.strip() and not line.startswith(("import time:", "note:"))
    ]


def run(module: list[str], **options) -> tuple[int, list[str]]:
    process = started(module, **options)
    said = ended(process)
    return process.returncode, said


def after(seconds: float, process: subprocess.Popen) -> None:
    """Waits so long from our first lines on, or until the process ends."""
    while STARTED not in Path("said").read_text() and process.poll() is None:
        time.sleep(0.005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def recording(name: str = "in.wav", seed: int = 0) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.1, 12 * RATE)
    tone = np.sin(2000 * np.pi * np.arange(len(noise)) / RATE) * (
        np.arange(len(noise)) % RATE < 4000
    )
    soundfile.write(name, noise + 0.3 * tone, RATE, subtype="FLOAT")


def stems(output: str = "o.wav") -> tuple[bytes, bytes] | None:
    """Both outputs, or None if there is none."""
    paths = Path(output), Path(output.replace(".", ".residual."))
    found = [path.exists() for path in paths]
    if any(found) and not all(found):
        raise Different("one of two outputs is there")
    return tuple(path.read_bytes() for path in paths) if all(found) else None


@cache
def undisturbed(*more: str) -> tuple[tuple[bytes, bytes], float]:
    """The outputs of a run that nothing disturbs, and its seconds."""
    start = time.monotonic()
    status, said = run(separate(*more, output="whole.wav"))
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


def left(*allowed: str) -> None:
    found = {path.name for path in Path().iterdir()} - {"said", *allowed}
    if found:
        raise Different(f"{sorted(found)} are left")


def killed(*moments: str) -> None:
    """kill -9 again and again, --resume in the end: the same bits."""
    expected, seconds = undisturbed()
    for moment in moments:
        process = started(separate("--resume"), *TOLD)
        after(float(moment) * seconds, process)
        process.kill()
        process.wait()
        if stems() not in (None, expected):
            raise Different("outputs of a killed run are not those of an undisturbed one")
        if stems():
            break
    status, said = run(separate("--resume"))
    if status or said or stems() != expected:
        raise Different(f"resumed, exit status {status}, not the same bits: {said}")
    left("in.wav", "o.wav", "o.residual.wav")


def stopped(what: str, name: str, moment: str, times: str = "1") -> None:
    """A signal at any moment, or several: one line, the right status, nothing left."""
    expected, seconds = undisturbed()
    module = separate() if what == "separate" else ["convert", *convert_paths()]
    process = started(module, *TOLD)
    after(float(moment) * seconds, process)
    for _ in range(int(times)):
        process.send_signal(getattr(signal, f"SIG{name}"))
        time.sleep(0.01)
    said = ended(process)
    if process.returncode == 0 and not said:  # it had ended before
        return
    refused(process.returncode, said, SIGNALS[name])
    left("in.wav", ".o.wav.resume")


def convert_paths() -> list[str]:
    return ["--hf-path", str(models.base() / "source" / "tiny"), "--mlx-path", "out"]


def changed(how: str, *more: str) -> None:
    """An input that changes while its sound is separated."""
    expected, _ = undisturbed(*more)
    recording("other.wav", seed=1)
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
    said = ended(process)
    if process.returncode == 0 and stems() == expected:
        return
    refused(process.returncode, said)
    left("in.wav", "other.wav", ".o.wav.resume")


def twins(delay: str) -> None:
    """Two processes with the same output: the whole result of one of them."""
    words = [sys.executable, "-m"]
    both = []
    for seed in "12":
        both.append(subprocess.Popen([*words, *separate("--seed", seed)], env=ENVIRONMENT))
        time.sleep(float(delay))
    if any(process.wait() not in (0, 2) for process in both):
        raise Different(f"exit status {[process.returncode for process in both]}")
    if stems() not in [undisturbed("--seed", seed)[0] for seed in "12"]:
        raise Different("the outputs are of neither")


def full(how: str, kind: str, share: str) -> None:
    """A disk, or a limit of files, too small for the output of some kind: older ones stay."""
    room = int(float(share) * ROOM[kind])
    folder = Path("room")
    folder.mkdir()
    source, output, more = "../in.wav", "o.wav", []
    if kind in ("mp4", "mov", "mkv"):
        source, output = str(models.base() / "media" / "good.mp4"), f"o.{kind}"
    elif kind == "flac":
        output = "o.flac"
    elif kind == "png":
        more = ["--spectrogram", "o.png"]
    elif kind == "json":
        more = ["--metrics-json", "o.json"]
    with mounted(folder, room if how == "disk" else None):
        names = {output, output.replace(".", ".residual."), *more[1:]}
        for name in names:
            (folder / name).touch()  # a full disk holds no more
        limit = {} if how == "disk" else {"preexec_fn": limited(room)}
        module = separate(*more, source=source, output=output)
        status, said = run(module, cwd=folder, **limit)
        if status:
            refused(status, said)
            kept = names if not more else names - {"o.wav", "o.residual.wav"}
            if any((folder / name).read_bytes() for name in kept):
                raise Different("an older output is lost")
        if others := {path.name for path in folder.iterdir()} - names - {f".{output}.resume"}:
            raise Different(f"{sorted(others)} are left")


def limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@contextlib.contextmanager
def mounted(folder: Path, size: int | None):
    """A small disk, where a size is given."""
    if size is None:
        yield
        return
    options = f"size={max(size, 8192)},nr_inodes=50"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def locked(what: str) -> None:
    """A folder that may not be written to."""
    folder = Path("locked")
    folder.mkdir()
    with mounted(folder, 2**20 if MOUNTS else None):
        if MOUNTS:
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        else:
            folder.chmod(0o555)
        module = separate(output="locked/o.wav")
        if what == "report":
            module = separate("--metrics-json", "locked/o.json")
        elif what == "new folder":
            module = separate(output="locked/new/o.wav")
        elif what == "convert":
            module = ["convert", *convert_paths()[:-1], "locked/out"]
        refused(*run(module))
    left("in.wav", "locked")


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
"""
SCRIPTS = {  # what threads do; the exit status must be 0
    "two": THREADS
    + "right = one(0), one(1)\n"
    + "threads = [threading.Thread(target=many, args=(i,)) for i in (0, 1)]\n"
    + "[t.start() for t in threads], [t.join() for t in threads]\n"
    + "assert found and all(found), found\n",
    "exit": THREADS + "t = threading.Thread(target=one, args=(0,)); t.start(); t.join()\n",
    "daemon": THREADS + "threading.Thread(target=one, args=(0,), daemon=True).start()\n",
    "other": THREADS
    + "right = one(0), one(1)\n"
    + "t = threading.Thread(target=many, args=(0,)); t.start(); t.join()\nassert all(found)\n",
}


def threads(which: str) -> None:
    words = [sys.executable, "-c", SCRIPTS[which]]
    process = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)
    if process.returncode:
        raise Different(f"exit status {process.returncode}: {process.stderr.strip()[-300:]}")


FAULTS = dict(
    killed=killed, stopped=stopped, changed=changed, twins=twins, full=full, locked=locked,
    threads=threads,
)  # fmt: skip


def draw(rng: Random) -> str:
    moment = f"{rng.random():.3f}"
    what, name = rng.choice(["separate", "convert"]), rng.choice([*SIGNALS])
    how = rng.choice(["limit", "disk"] if MOUNTS else ["limit"])
    change = rng.choice(["deleted", "replaced", "truncated", "overwritten"])
    return rng.choice([
        "killed " + " ".join(f"{rng.random():.3f}" for _ in range(5)),
        *[f"stopped {what} {name} {moment}", f"stopped {what} {name} {float(moment) / 5:.3f}"] * 2,
        f"stopped separate INT {moment} 5",
        *[f"changed {change}", f"changed {change} --subtract"],
        f"twins {rng.random():.2f}",
        *[f"full {how} {rng.choice([*ROOM])} {rng.random():.3f}"] * 3,
        f"locked {rng.choice(['output', 'report', 'convert'])}",
        f"threads {rng.choice([*SCRIPTS])}",
    ])  # fmt: skip


def check(recipe: str) -> None:
    if recipe == "warm":
        return
    name, *words = recipe.split()
    recording("in.wav")
    FAULTS[name](*words)
