"""How the commands meet a terminal: arguments, notes and signals, each answered in one line."""

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TextIO

from ..errors import DEAF, SAMAudioError, SAMAudioWarning, plain
from ..files import reason

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
IMPATIENCE = 1.0  # seconds after a signal in which others mean the same


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, as all our errors."""

    def error(self, message: str):
        self.exit(2, f"error: {plain(message)} (--help lists the options)\n")


def run(
    command: str | Callable[[list[str]], int | None], arguments: list[str] | None = None
) -> int:
    """The exit status of a command: what it returns, or 0; 2 after an error; 128 and the signal
    that stopped it.

    command: a function of the arguments, or "module:function", to be imported here, where signals
    are heeded. arguments: those of the process unless given.
    """
    stops = Stops(ends=arguments is None)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with stops, notes():
            if isinstance(command, str):
                with stops.held():
                    module, name = command.split(":")
                    command = getattr(importlib.import_module(module), name)
            status = command(arguments)
            sys.stdout.flush()
    except SAMAudioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except MemoryError:
        print("error: there is not enough memory: close something, or try less", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("; ".join(["stopped", *map(plain, stop.args)]), file=sys.stderr)
        return 128 + (stops.number or signal.SIGINT)
    except BrokenPipeError:  # nobody reads the report
        mute()
        return 0
    except OSError as error:
        if error.filename:  # it may not even be looked at
            where = f"use {error.filename}"
        else:  # a full disk to which stdout goes
            mute()
            where = "go on"
        print(f"error: cannot {plain(where)}: {reason(error)}", file=sys.stderr)
        return 2
    return status or 0


def mute() -> None:
    """What waits to be printed goes nowhere, at Python's end, too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line above the bar, if there is one."""
    from tqdm import tqdm

    stream = stream or sys.stdout
    with tqdm.external_write_mode(stream):
        print(plain(line), file=stream)


def agreed(question: str) -> bool:
    """Does the user say yes? Nobody there is a no."""
    print(f"{plain(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


class Stops:
    """While it is entered, every signal that asks to stop raises KeyboardInterrupt; more of them
    while the first is answered do nothing. ends: whether the process ends after that."""

    def __init__(self, ends: bool):
        self.number: int | None = None  # of the first signal
        self._ends, self._holds, self._last = ends, False, -IMPATIENCE

    def __enter__(self) -> "Stops":
        own = threading.current_thread() is threading.main_thread()  # only it gets signals
        self._old = {one: signal.signal(one, self._stop) for one in STOPS if own}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._old.items():  # Python's own end must not be stopped once more
            signal.signal(number, signal.SIG_IGN if self.number and self._ends else handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        while frame:
            if frame.f_code in DEAF:  # again, when it has returned
                threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
                return
            frame = frame.f_back
        before, self._last = self._last, time.monotonic()
        if self._last - before > IMPATIENCE:
            self.number = self.number or number
            if not self._holds:
                raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Signals wait for the end of the body: imports of extensions do not survive them."""
        self._holds = True
        try:
            yield
        finally:
            self._holds = False
        if self.number:
            raise KeyboardInterrupt


@contextlib.contextmanager
def notes() -> Iterator[None]:
    """Our warnings are printed as lines, each once."""
    said = set()
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message, category, *where):
            if not issubclass(category, SAMAudioWarning):
                return others(message, category, *where)
            if str(message) not in said:
                said.add(str(message))
                say(f"note: {message}", sys.stderr)

        warnings.showwarning = show
        warnings.simplefilter("always", SAMAudioWarning)
        yield
