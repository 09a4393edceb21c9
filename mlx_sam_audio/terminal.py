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

from .errors import SAMAudioError, SAMAudioWarning, plain

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
IMPATIENCE = 1.0  # seconds after a signal in which others mean the same


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, as all our errors."""

    def error(self, message: str):
        self.exit(2, f"error: {plain(message)} (--help lists the options)\n")


def run(command: str | Callable[[list[str]], None], arguments: list[str] | None = None) -> int:
    """The exit status of a command: 0; 2 after an error; 128 and the signal that stopped it.

    command: a function of the arguments, or "module:function", to be imported here, where signals
    are heeded. arguments: those of the process unless given.
    """
    ends, arguments = arguments is None, sys.argv[1:] if arguments is None else arguments
    stops: list[int] = []
    try:
        with stoppable(stops, ends), notes():
            if isinstance(command, str):
                with held():
                    module, name = command.split(":")
                    command = getattr(importlib.import_module(module), name)
            command(arguments)
            sys.stdout.flush()
    except SAMAudioError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MemoryError:
        print("error: there is not enough memory: close something, or try less", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("; ".join(["stopped", *map(plain, stop.args)]), file=sys.stderr)
        return 128 + (stops or [signal.SIGINT])[0]
    except BrokenPipeError:  # nobody reads the report
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


@contextlib.contextmanager
def stoppable(stops: list[int], ends: bool) -> Iterator[None]:
    """Every signal that asks to stop raises KeyboardInterrupt and is added to `stops`; more of them
    while the first is answered do nothing. ends: whether the process ends with the body."""
    if threading.current_thread() is not threading.main_thread():  # only it gets signals
        yield
        return
    last = -IMPATIENCE

    def stop(number: int, frame: object) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before > IMPATIENCE:
            stops.append(number)
            raise KeyboardInterrupt

    old = {number: signal.signal(number, stop) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in old.items():  # Python's own end must not be stopped once more
            signal.signal(number, signal.SIG_IGN if stops and ends else handler)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Signals wait until the body is done: imports of extensions cannot be interrupted cleanly."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


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
                print(f"note: {message}", file=sys.stderr)

        warnings.showwarning = show
        warnings.simplefilter("always", SAMAudioWarning)
        yield
