"""Many recordings, one after the other: what is done is skipped, what fails stops nothing."""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..engine import checkpoint
from ..engine.group import launched
from ..errors import Cancelled, SAMAudioError, note
from ..files import make_folder
from ..prompts import check_words
from . import names, report
from .crew import Crew, settle
from .jobs import Job
from .manifest import Manifest
from .session import INPUT, Session
from .terminal import say

ALONE = ("metrics_json", "spectrogram", "keep_candidates", "spans_only", "resume")


def separate(session: Session, jobs: Sequence[Job]) -> int:
    """All of them; the exit status."""
    options, display = session.options, session.display
    for name in ALONE:
        if getattr(options, name):
            raise SAMAudioError(
                f"--{name.replace('_', '-')} is for one recording: of many, the manifest tells all"
            )
    folder = Path(options.output or ".")
    make_folder(folder)
    rank, count = launched()
    done = Manifest(folder, rank if count > 1 else None)
    for description in {prompt.description: None for job in jobs for prompt in job.prompts}:
        check_words(description, session.model.config.vocabulary)
    if session.rate != INPUT:
        names.check_form(jobs[0].outputs, session.rate_of(jobs[0].source.path), options.bits)
    ended: dict[str, str] = {}  # recordings, and how
    if count == 1:
        settle(done, options.lease)
        make(session, jobs, jobs, done, ended)
    else:
        with crew(session, jobs, done, ended) as turns:
            make(session, jobs, turns, done, ended)
    counts = Counter(ended.values())
    told = {"made": "done", "done before and skipped": "skipped", "failed": "failed"}
    words = ", ".join(f"{counts[how]} {what}" for what, how in told.items() if counts[how])
    what = "1 recording" if len(jobs) == 1 else f"{len(jobs)} recordings"
    display.say(f"{what}: {words}; {done.path} tells more")
    return 1 if counts["failed"] and rank == 0 else 0  # mlx.launch kills all when one fails


@contextlib.contextmanager
def crew(
    session: Session, jobs: Sequence[Job], done: Manifest, ended: dict[str, str]
) -> Iterator[Iterator[Job]]:
    """The jobs that fall to this process of several."""
    (rank, size), folder = launched(), done.folder
    sizes = {str(job.source): job.size for job in jobs}

    def tell(row: dict) -> None:
        name = row["input"]
        if row["state"] == "done" and name not in ended:
            paths = ", ".join(str(folder / output) for output in row["outputs"])
            session.display.say(f"{name}: {paths}")
            session.display.helped(sizes[name] / max(sum(sizes.values()), 1))
        ended[name] = row["state"]

    mates = Crew(done, rank, size, session.options.lease)
    if not mates.join(session.agreed(jobs)):
        yield iter(())
        return
    session.cancel, complete = mates.lost, False
    try:
        with contextlib.closing(mates.turns(jobs, tell)) as turns:
            yield turns
        complete = True
    finally:
        mates.end(complete)


def make(
    session: Session,
    jobs: Sequence[Job],
    turns: Iterable[Job],
    done: Manifest,
    ended: dict[str, str],
) -> None:
    """Make those of the jobs whose turn comes."""
    display, sizes = session.display, {str(job.source): job.size for job in jobs}
    whole = max(sum(sizes.values()), 1)
    for job in turns:
        name, before = str(job.source), sum(sizes[name] for name in ended)
        place, share = (len(ended) + 1, len(jobs)), sizes[name] / whole
        display.begin(job.source.name, place, before / whole, share)
        try:
            ended[name] = separated(session, job, done)
            if ended[name] == "done":
                display.end()
        except KeyboardInterrupt as stop:
            ended.pop(name, None)
            count = len(ended) - Counter(ended.values())["failed"]
            stop.args = (f"{count} of {len(jobs)} are done; the same command goes on",)
            raise
        except (SAMAudioError, MemoryError) as error:
            lost = session.cancel is not None and session.cancel()
            if lost or isinstance(error, Cancelled):
                note(f"{job.source} took so long that another process makes it")
                continue
            ended[name] = "failed"
            why = str(error) or "there is not enough memory"
            say(f"error: {job.source}: {why}", sys.stderr)
            with contextlib.suppress(Cancelled):  # the others are done
                done.add("failed", job.source, [], error=why)


def separated(session: Session, job: Job, done: Manifest) -> str:
    """Separate a recording, unless that was done. Returns "done" or "skipped"."""
    again, paths = session.options.overwrite, job.paths
    fingerprint = session.fingerprint(job)
    if not again and done.is_done(paths, fingerprint):
        done.skip(job.source)
        return "skipped"
    if not again and (strangers := done.strangers(paths)):
        raise SAMAudioError(
            f"{strangers[0]} is there already, and was not written here before: --overwrite "
            "replaces it"
        )
    session.check(job)
    begun = done.is_begun(paths, fingerprint) and not again
    done.add("begun", job.source, paths, fingerprint=fingerprint)
    display = session.display
    _, values = session.separate(job, checkpoint.beside(paths[0]), not begun, many=True)
    done.add("done", job.source, paths, fingerprint=fingerprint, report=values)
    display.say(f"{job.source}: {', '.join(map(str, paths))}")
    for line in report.table(job, values):
        display.detail(line)
    return "done"
