"""What a user sees while the command works: one bar, and lines above it."""

import time
from pathlib import Path

from tqdm import tqdm

from ..engine.progress import Progress, Watch
from ..errors import plain
from .terminal import say


class Display:
    """Shows on a terminal how far the work is: the file and stage, the share of all work, and the
    seconds left. quiet: nothing but notes and errors; verbose: what is being done, too; piped: the
    terminal is behind a pipe."""

    def __init__(self, quiet: bool = False, verbose: bool = False, piped: bool = False):
        self._quiet, self._verbose = quiet, verbose
        self._title, self._before, self._share = "", 0.0, 1.0
        self._spent, self._worked, self._start = 0.0, 0.0, time.perf_counter()
        self._watch: Watch | None = None
        layout = "{desc} {percentage:3.0f}%|{bar}| {postfix}"
        self._bar = tqdm(
            total=1.0,
            desc="load",
            bar_format=layout,
            disable=quiet or (False if piped else None),
            leave=verbose,
        )
        self._show("load", 0.0, "")

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error) -> None:
        self._bar.close()

    def say(self, line: str) -> None:
        if not self._quiet:
            say(line)

    def detail(self, line: str) -> None:
        if self._verbose:
            self.say(line)

    def begin(self, source: str, place: tuple[int, int], before: float, share: float) -> None:
        """The file in this place of so many is next. before, share: of all work, that of the files
        before it, and its own."""
        number, count = place
        self._title = f"{number}/{count} {plain(Path(source).name)[:30]} " if count > 1 else ""
        self._before, self._share, self._watch = before, share, None
        self._start = time.perf_counter()

    def end(self) -> None:
        """The file is made; what is skipped has no end."""
        self._spent += time.perf_counter() - self._start
        self._worked += self._share

    def helped(self, share: float) -> None:
        """Another process has made so much of all work."""
        self._worked += share

    def follow(self, watch: Watch) -> None:
        """Say of a run what it goes on from, once it is known."""
        self._watch = watch

    def __call__(self, now: Progress) -> None:
        if self._watch is not None and now.stage not in ("load", "encode"):
            watch, self._watch = self._watch, None
            if skipped := watch.skipped("solve"):
                total = watch.total("solve")
                self.say(f"resumed   {skipped} of {total} evaluations were made before")
        left, done = now.seconds_left, self._share * now.fraction
        if self._share < 1 and self._worked + done:
            pace = (self._spent + time.perf_counter() - self._start) / (self._worked + done)
            left = pace * (1 - self._before - done)
        ends = "" if left is None else f", {tqdm.format_interval(left)} left"
        self._show(now.stage, self._before + done, f"{now.done}/{now.total}{ends}")

    def _show(self, stage: str, fraction: float, postfix: str) -> None:
        self._bar.set_description_str(f"{self._title}{stage:6}", refresh=False)
        self._bar.set_postfix_str(postfix, refresh=False)
        self._bar.n = min(fraction, 1.0)
        self._bar.refresh()
