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

OURS = {"mlx_sam_audio", "convert"}  # folders

OUTCOMES = ("refused", "right", "plausible", "different", "exception", "memory", "crash", "hang")
GOOD = OUTCOMES[:3]


class Different(Exception):
    """The result is not what it should be, and nobody said so."""


def run(
    check: Callable[[str], str | None], cases: Iterable[tuple], workers: int, limit: float
) -> Iterator[tuple]:
    """(number, recipe, outcome, words) of cases (number, recipe), as they end.

    check: returns nothing where all is right, or another good outcome; raises SAMAudioError where
    the case was refused, Different, or anything else. limit: seconds of a case.
    """
    cases, idle, busy = iter(cases), [Worker(check) for _ in range(workers)], []
    while True:
        while idle and (case := next(cases, None)):
            busy.append(idle.pop().start(case))
        if not busy:
            break
        wait([worker.end for worker in busy], timeout=1)
        for worker in [worker for worker in busy if worker.finished(limit)]:
            busy.remove(worker)
            outcome, words = worker.outcome()
            yield *worker.case, outcome, words
            if outcome in ("crash", "hang", "memory") or worker.done == CASES:
                worker.stop()
                worker = Worker(check)
            idle.append(worker)
    for worker in idle:
        worker.stop()


class Worker:
    def __init__(self, check: Callable):
        self.end, theirs = CONTEXT.Pipe()
        self.errors, self.done = Path(tempfile.mkstemp()[1]), 0
        self.process = CONTEXT.Process(
            target=serve, args=(theirs, check, self.errors, tempfile.gettempdir())
        )
        self.process.start()
        theirs.close()
        self.end.recv()  # it has imported what it needs

    def start(self, case: tuple) -> "Worker":
        self.case, self.until, self.done = case, None, self.done + 1
        self.started = time.monotonic()
        self.end.send(case[1])
        return self

    def finished(self, limit: float) -> bool:
        return self.end.poll() or time.monotonic() - self.started > limit

    def outcome(self) -> tuple[str, str]:
        with contextlib.suppress(EOFError, ConnectionResetError):
            if self.end.poll():
                return self.end.recv()
            return "hang", f"no end after {time.monotonic() - self.started:.0f} s"
        self.process.join()
        said = self.errors.read_text(errors="replace").strip().splitlines()
        return "crash", f"exit status {self.process.exitcode}: {' / '.join(said[-3:])}"

    def stop(self) -> None:
        """At once if it hangs; or else as it likes."""
        self.end.close()
        self.process.join(5)
        self.process.kill()


def serve(end, check: Callable, errors: Path, folder: str) -> None:
    """What a worker does. folder: for temporary files; MLX keeps its kernels elsewhere."""
    tempfile.tempdir = folder
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # macOS knows the limit, but does not take it
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    for descriptor, name in enumerate((os.devnull, errors, errors)):
        os.dup2(os.open(name, os.O_RDWR | os.O_APPEND), descriptor)
    end.send("ready")
    with contextlib.suppress(EOFError):  # nobody wants more
        while True:
            recipe = end.recv()
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as box:
                os.chdir(box)
                outcome, words = tried(check, recipe)
                os.chdir(folder)
            unit = 1 if sys.platform == "darwin" else 1024
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
            if peak > PEAK:
                outcome, words = "memory", f"{peak / 2**30:.1f} GiB; {outcome} {words}"
            end.send((outcome, words))


def tried(check: Callable, recipe: str) -> tuple[str, str]:
    from mlx_sam_audio import SAMAudioError

    try:
        return check(recipe) or "right", ""
    except SAMAudioError as error:
        return ("exception" if "\n" in str(error) else "refused"), str(error)
    except Different as error:
        return "different", str(error)
    except BaseException as error:  # noqa: BLE001  whatever it is, it is what we look for
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if OURS & set(Path(f.filename).parts)]
        frame = (ours or frames)[-1]
        words = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}: {error}"
        return "memory" if isinstance(error, MemoryError) else "exception", words[:300]
