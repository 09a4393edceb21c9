"""Cases in processes of their own: a crash, a hang or a flood of one stops nothing else."""

import contextlib
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from pathlib import Path

ADDRESSES = 8 * 2**30  # bytes a worker may ask for, where the system heeds that
PEAK = 2 * 2**30  # bytes it may really take
CASES = 200  # of one process, before a fresh one takes over
CONTEXT = multiprocessing.get_context("spawn")  # MLX does not survive a fork

OUTCOMES = ("refused", "right", "plausible", "different", "exception", "memory", "crash", "hang")
GOOD = OUTCOMES[:3]


class Different(Exception):
    """The result is not what it should be, and nobody said so."""


def run(
    check: Callable, cases: Iterable[tuple], folder: Path, workers: int, limit: float
) -> Iterator:
    """(number, recipe, outcome, words) of cases (number, recipe), as they end.

    check(recipe): returns nothing where all is right, or "plausible"; raises SAMAudioError where
    the case was refused, Different, or anything else. folder: for temporary files. limit: seconds.
    """
    cases, live = iter(cases), []
    idle = [Worker(check, folder) for _ in range(workers)]
    while True:
        while idle and (case := next(cases, None)):
            live.append(idle.pop().start(case))
        if not live:
            break
        wait([worker.end for worker in live], timeout=1)
        for worker in list(live):
            outcome = worker.outcome(limit)
            if outcome is not None:
                live.remove(worker)
                yield *worker.case, *outcome
                if outcome[0] in ("crash", "hang", "memory") or worker.done == CASES:
                    worker.stop(busy=outcome[0] == "hang")
                    worker = Worker(check, folder)
                idle.append(worker)
    for worker in idle:
        worker.stop()


class Worker:
    def __init__(self, check: Callable, folder: Path):
        self.end, theirs = CONTEXT.Pipe()
        self.errors, self.done = Path(tempfile.mkstemp(dir=folder)[1]), 0
        self.process = CONTEXT.Process(target=serve, args=(theirs, check, folder, self.errors))
        self.process.start()
        theirs.close()
        self.end.recv()  # it has imported what it needs

    def start(self, case: tuple) -> "Worker":
        self.case, self.started = case, time.monotonic()
        self.end.send(case[1])
        return self

    def outcome(self, limit: float) -> tuple[str, str] | None:
        """None while it still works."""
        self.done += 1
        with contextlib.suppress(EOFError, ConnectionResetError):
            if self.end.poll():
                return self.end.recv()
            if time.monotonic() - self.started > limit:
                return "hang", f"no end after {limit:g} s"
            self.done -= 1
            return None
        self.process.join()
        said = self.errors.read_text(errors="replace").strip().splitlines()
        return "crash", f"exit status {self.process.exitcode}: {' / '.join(said[-3:])}"

    def stop(self, busy: bool = False) -> None:
        self.end.close()
        if busy:
            self.process.kill()
        self.process.join()


def serve(end, check: Callable, folder: Path, errors: Path) -> None:
    """What a worker does."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError):  # macOS knows the limit, but does not take it
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    tempfile.tempdir = str(folder)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(os.open(errors, os.O_WRONLY), 1)
    os.dup2(1, 2)
    check("warm")
    end.send("ready")
    while True:
        try:
            recipe = end.recv()
        except EOFError:
            return
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as box:
            os.chdir(box)
            result = tried(check, recipe)
            os.chdir(folder)
        if peak() > PEAK:
            result = "memory", f"{peak() / 2**30:.1f} GiB ({': '.join(result)})"
        end.send(result)


def tried(check: Callable, recipe: str) -> tuple[str, str]:
    from mlx_sam_audio import SAMAudioError

    try:
        return check(recipe) or "right", ""
    except SAMAudioError as error:
        return ("exception" if "\n" in str(error) else "refused"), str(error)
    except Different as error:
        return "different", str(error)
    except MemoryError as error:
        return "memory", f"MemoryError {error} at {place(error)}"
    except BaseException as error:  # noqa: BLE001  whatever it is, it is what we look for
        return "exception", f"{type(error).__name__} at {place(error)}: {str(error)[:200]}"


def place(error: BaseException) -> str:
    """The last line of our code that was running."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if Path(f.filename).parts[-2] in ("mlx_sam_audio", "convert", "demo")]
    frame = (ours or frames)[-1]
    return f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}"


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
