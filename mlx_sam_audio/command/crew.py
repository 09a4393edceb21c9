"""The processes of `mlx.launch` at a folder of recordings: each takes the next that nobody has.

They send each other nothing. What they share is the folder of results, and a hidden folder in it:
what they agreed on, who is at which recording, and a file for each that tells what came of those
that it had. So one that is gone or slow costs its own recording alone, which another one takes.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import SAMAudioError, note
from ..files import make_folder, remove, whole
from ..settings import digest
from . import claims
from .jobs import Job
from .manifest import Manifest, Tail, lines

POLL = 0.3  # seconds
SAME = "is it the same folder for all?"
Row = dict[str, Any]


class Crew:
    """One of `size` processes. done: the manifest of the folder; lease: seconds after which one
    that shows no progress is gone."""

    def __init__(self, done: Manifest, rank: int, size: int, lease: float):
        self._done, self._rank, self._lease = done, rank, lease
        self._folder, self._pact = done.shared, pact(done)
        self._files = [self._folder / f"{i}.jsonl" for i in range(size)]
        self._clock = self._folder / f"{rank}.clock"
        self._tails = list(map(Tail, self._files))
        self._agreed: dict[str, str] = {}
        self._claim: Path | None = None
        self._asked = 0.0

    def join(self, agreed: dict[str, str]) -> bool:
        """Whether the first process came, which begins. Raises SAMAudioError where others work with
        something else. agreed: all that must be the same, by name."""
        make_folder(self._folder)
        self._agreed, start, since = agreed, time.monotonic(), claims.clock(self._clock)
        theirs = claims.told(self._pact)
        if self._rank == 0:
            if theirs and not claims.is_left(self._pact, since, self._lease):
                raise self._refused(theirs)
            self._begin()
        while self._rank and not (theirs := self._renewed(since)):
            if time.monotonic() - start > self._lease:
                note(f"rank 0 never came to {self._done.folder}: {SAME}")
                return False
            time.sleep(POLL)
        if self._rank and theirs.get("agreed") != agreed:
            raise self._refused(theirs)
        self._done.take(lines(self._done.path))  # what a killed run did is there now
        claims.clock(self._files[self._rank])  # it came
        return True

    def _renewed(self, since: float) -> dict[str, Any]:
        """What all agreed on, if that is not of a former run."""
        try:
            fresh = self._pact.stat().st_mtime >= since
        except OSError:
            fresh = False
        return claims.told(self._pact) if fresh else claims.EMPTY

    def _refused(self, theirs: dict[str, Any]) -> SAMAudioError:
        given = theirs.get("agreed")
        known = given if isinstance(given, dict) else {}
        others = [name for name in self._agreed if known.get(name) != self._agreed[name]]
        what = f"another {' and another '.join(others)} than {claims.HOST}" if others else "others"
        return SAMAudioError(
            f"{theirs['host']} works in {self._done.folder} with {what}: make them the same, or "
            f"wait until that is done, or, if it was killed, remove {self._pact}"
        )

    def _begin(self) -> None:
        self._done.fold()
        for path in self._folder.glob("*.claim"):
            remove(path)
        with whole(self._pact) as (path,):
            path.write_text(json.dumps({**claims.me(), "agreed": self._agreed}))

    def turns(self, jobs: Sequence[Job], tell: Callable[[Row], None]) -> Iterator[Job]:
        """The jobs that fall to this process, the largest first, until every one was made by some
        process, of which `tell` gets to know."""
        left = {str(job.source): job for job in sorted(jobs, key=lambda job: -job.size)}
        self._read(left, tell)
        while left and self._goes_on():
            name = next(filter(self._take, left), None)
            try:
                self._read(left, tell)
                if name in left:
                    yield left[name]
                    self._read(left, tell)
            finally:
                self._leave()
            if name is None:
                time.sleep(POLL)
        if left and self._rank == 0:
            raise SAMAudioError(
                f"{self._pact} was removed while {len(left)} of {len(jobs)} recordings were left: "
                "the same command goes on"
            )

    def lost(self) -> bool:
        """Has another process taken over this one's recording? The claim is renewed by asking."""
        now = time.monotonic()
        if self._claim is None or now < self._asked + min(1, self._lease / 4):
            return False
        self._asked = now
        claims.renew(self._claim)
        claims.renew(self._pact)
        return not claims.is_mine(self._claim)

    def end(self, complete: bool) -> None:
        """To be called at the end, complete or not."""
        if not complete and claims.is_mine(self._pact):
            remove(self._pact)
        if not complete or self._rank:
            return
        start = time.monotonic()  # those that came late have to see that they agree
        while missing := [str(i) for i, path in enumerate(self._files) if not path.exists()]:
            if time.monotonic() - start > self._lease:
                note(f"rank {' and '.join(missing)} never came to {self._done.folder}: {SAME}")
                break
            claims.renew(self._pact)
            time.sleep(POLL)
        remove(self._pact)
        self._done.fold()
        remove(self._folder)
        time.sleep(3 * POLL)  # the others go, whom mlx.launch kills if this one tells of failures

    def _goes_on(self) -> bool:
        """Is what all agreed on still there? The first process removes it at the end."""
        theirs = claims.told(self._pact)
        if theirs and theirs.get("agreed") != self._agreed:
            raise SAMAudioError(f"{theirs['host']} began something else in {self._done.folder}")
        claims.renew(self._pact)
        return bool(theirs)

    def _take(self, name: str) -> bool:
        path = self._folder / f"{digest(name)[:16]}.claim"
        left = claims.is_left(path, claims.clock(self._clock), self._lease)
        if claims.take_over(path) if left else claims.take(path):
            self._claim = path
        return self._claim is not None

    def _leave(self) -> None:
        if self._claim is not None and claims.is_mine(self._claim):
            remove(self._claim)
        self._claim = None

    def _read(self, left: dict[str, Job], tell: Callable[[Row], None]) -> None:
        """What all processes told since. What another one failed at, the first tries itself: that
        one may have no memory or no disk."""
        for rank, tail in enumerate(self._tails):
            rows = [row for row in tail() if isinstance(row.get("input"), str)]
            self._done.take(rows)
            last = {"done", "skipped"} | ({"failed"} if rank == self._rank or self._rank else set())
            for row in rows:
                if row["input"] in left and row.get("state") in last:
                    del left[row["input"]]
                    tell(row)


def pact(done: Manifest) -> Path:
    """What the processes in a folder agreed on, and who began."""
    return done.shared / "agreed.json"


def settle(done: Manifest, lease: float) -> None:
    """Before one process works alone in a folder: take in what several left that were killed."""
    if not done.shared.is_dir():
        return
    now = claims.clock(done.shared / "clock")
    if (others := claims.told(pact(done))) and not claims.is_left(pact(done), now, lease):
        raise SAMAudioError(
            f"{others['host']} works in {done.folder} with others: wait until that is done, or, if "
            f"it was killed, remove {pact(done)}"
        )
    done.fold()
    remove(done.shared)
