"""Seconds of each stage of a run."""

import time


class Clock:
    """Seconds of each stage; a stage ends where its arrays were evaluated."""

    def __init__(self, laps: dict[str, float] | None = None):
        self.laps = dict(laps or {})
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._start = now - self._start, now
