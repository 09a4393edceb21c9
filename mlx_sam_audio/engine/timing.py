"""Seconds of each stage of a run."""

import time


class Clock:
    """Seconds of each stage, all its parts together; one ends where its arrays were evaluated."""

    def __init__(self, laps: dict[str, float] | None = None):
        self.laps = dict(laps or {})
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._start
        self._start = now
