"""Many recordings, one after the other: what is done is skipped, what fails stops nothing."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..engine import checkpoint
from ..errors import SAMAudioError, note
from ..files import make_folder
from ..prompts import check_words
from . import names, report
from .jobs import Job
from .manifest import Manifest
from .names import Output
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
    done = Manifest(folder)
    for description in {prompt.description: None for job in jobs for prompt in job.prompts}:
        check_words(description, session.model.config.vocabulary)
    if session.rate != INPUT:
        names.check_form(jobs[0].outputs, session.rate_of(jobs[0].source.path), options.bits)
    sizes = [size(job.source.path) for job in jobs]
    made, skipped, failed = 0, 0, 0
    for i, job in enumerate(jobs):
        whole = max(sum(sizes), 1)
        display.begin(job.source.name, (i + 1, len(jobs)), sum(sizes[:i]) / whole, sizes[i] / whole)
        try:
            if separated(session, job, done):
                made += 1
                display.end()
            else:
                skipped += 1
        except KeyboardInterrupt as stop:
            stop.args = (f"{made + skipped} of {len(jobs)} are done; the same command goes on",)
            raise
        except (SAMAudioError, MemoryError) as error:
            failed += 1
            why = str(error) or "there is not enough memory"
            say(f"error: {job.source}: {why}", sys.stderr)
            done.add("failed", job.source, [], error=why)
    counts = {"made": made, "done before and skipped": skipped, "failed": failed}
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    what = "1 recording" if len(jobs) == 1 else f"{len(jobs)} recordings"
    display.say(f"{what}: {told}; {done.path} tells more")
    return 1 if failed else 0


def separated(session: Session, job: Job, done: Manifest) -> bool:
    """Separate a recording, unless that was done. Returns whether it had to be."""
    again, paths = session.options.overwrite, job.paths
    fingerprint = session.fingerprint(job)
    if not again and done.is_done(paths, fingerprint):
        return False
    if not again and (strangers := done.strangers(paths)):
        raise SAMAudioError(
            f"{strangers[0]} is there already, and was not written here before: --overwrite "
            "replaces it"
        )
    session.check(job)
    begun = done.is_begun(paths, fingerprint) and not again
    announce(job.outputs, again or begun)
    done.add("begun", job.source, paths, fingerprint=fingerprint)
    display = session.display
    _, values = session.separate(job, checkpoint.beside(paths[0]), not begun, many=True)
    done.add("done", job.source, paths, fingerprint=fingerprint, report=values)
    display.say(f"{job.source}: {', '.join(map(str, paths))}")
    for line in report.table(job, values):
        display.detail(line)
    return True


def announce(outputs: Sequence[Output], known: bool = False) -> None:
    """Nothing is replaced without a word. known: the user said so."""
    there = [str(output.path) for output in outputs if os.path.lexists(output.path)]
    if there and not known:
        note(f"{' and '.join(there)} will be replaced")


def size(path: Path) -> int:
    """About how much work a recording is."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0
