"""Files that say who is at what, in a folder that several machines share.

Whoever makes such a file has it. It is renewed while the work goes on; one that was not for long,
or whose process is gone from this machine, is anybody's. Two may be at the same thing all the same,
where one is so slow that it seems to be gone: nothing may depend on claims but the time it takes.
"""

import contextlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from ..errors import SAMAudioError
from ..files import HOST, part, reason, remove, runs

EMPTY: dict[str, Any] = {}
AGAIN = 1.0  # seconds before it is said that a process is gone; those of a machine wake up in turn


def me() -> dict[str, Any]:
    """Who takes, and when."""
    return {"host": HOST, "process": os.getpid(), "time": time.time()}


def take(path: Path) -> bool:
    """Make the file, unless it is there or its folder is gone."""
    try:
        with open(path, "x") as file:
            json.dump(me(), file)
    except (FileExistsError, FileNotFoundError):
        return False
    except OSError as error:
        raise SAMAudioError(f"cannot write {path}: {reason(error)}") from None
    return True


def told(path: Path) -> dict[str, Any]:
    """What a file says; nothing, if it is not there, just being written, or no claim."""
    try:
        found = json.loads(path.read_bytes())
        whole = isinstance(found["host"], str) and isinstance(found["process"], int)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return EMPTY
    return found if whole else EMPTY


def is_mine(path: Path) -> bool:
    found = told(path)
    return (found.get("host"), found.get("process")) == (HOST, os.getpid())


def clock(path: Path) -> float:
    """What time it is for the file system of a file, which is made; 0 if its folder is gone."""
    try:
        path.touch()
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    except OSError as error:
        raise SAMAudioError(f"cannot write {path}: {reason(error)}") from None


def renew(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)


def is_left(path: Path, now: float, lease: float) -> bool:
    """Is nobody at it, who asks neither? now: by the clock of the folder's file system."""
    found = told(path)
    if found.get("host") == HOST:  # ours would be one of an earlier process of the same number
        if found["process"] == os.getpid() or not runs(found["process"]):
            return True
    try:
        return abs(now - path.stat().st_mtime) > lease
    except OSError:
        return False


def take_over(path: Path) -> bool:
    """Take what was left. A file can be renamed once only, by one of all who try."""
    left, gone = told(path), part(path)
    try:
        os.rename(path, gone)
    except OSError:
        return False
    if told(gone) != left:  # somebody was faster, and this is his
        with contextlib.suppress(OSError):
            os.rename(gone, path)
        return False
    remove(gone)
    return take(path)


class Claim:
    """What another process renews as long as it lives. Clocks are not compared: they differ."""

    def __init__(self, path: Path, lease: float):
        self.path, self._lease = path, lease
        self._last, self._seen, self._lived = None, -math.inf, False

    def state(self) -> dict | None:
        """Another one whenever it is renewed; None, if it is not there or not to be read."""
        try:
            renewed = self.path.stat().st_mtime_ns
        except OSError:
            return None
        found = told(self.path)
        return {**found, "renewed": renewed} if found else None

    def lives(self) -> bool:
        before, self._lived = self._lived, self._renewed()
        if before and not self._lived:
            time.sleep(AGAIN)
            self._lived = self._renewed()
        return self._lived

    def _renewed(self) -> bool:
        state, now = self.state(), time.monotonic()
        if state and state["host"] == HOST and not runs(state["process"]):
            return False
        if state and state != self._last:
            self._last, self._seen = state, now
        return bool(state) and now - self._seen < self._lease
