"""What `mlx-sam-audio` does."""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

from ..engine import checkpoint
from ..engine.group import joined_by_launch, launched
from ..errors import Gone, SAMAudioError, SAMAudioWarning
from ..files import make_folder, writable
from ..media import figures
from . import folders, pictures, report, spans
from .display import Display
from .jobs import Job, planned, wanted
from .options import read
from .session import Session
from .terminal import say
from .write import write_text


def main(arguments: list[str]) -> int | None:
    options = read(arguments)
    rank, count = launched()
    if options.demo:
        if arguments != ["--demo"]:
            raise SAMAudioError("--demo makes its own example: it takes no other options")
        from ..demo import example

        return None if rank else example.run(Path.cwd())
    if options.doctor:
        if set(arguments) - {"--doctor", "--json"}:
            raise SAMAudioError("--doctor looks at this machine: it takes no option but --json")
        from . import doctor

        return None if rank else doctor.report(options.json)
    if options.json:
        raise SAMAudioError("--json belongs to --doctor: a run's report is --metrics-json PATH")
    options.piped = options.output == "-"
    if count > 1:
        sys.stdout.reconfigure(line_buffering=True)  # mlx.launch reads what is said
        options.quiet |= rank > 0
        if options.piped or "-" in options.inputs:
            raise SAMAudioError("mlx.launch has no stdin or stdout to share: name files")
    with contextlib.ExitStack() as stack:
        spool = None
        if options.piped or "-" in options.inputs:
            spool = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlx-sam-audio.")))
        return (to_stdout if options.piped else separate)(options, spool)


def to_stdout(options: argparse.Namespace, spool: Path) -> None:
    """The only result, as wav; all words go to stderr."""
    if options.format not in (None, "wav"):
        raise SAMAudioError("-o - writes wav: leave out --format")
    result = spool / "stdout.wav"
    verbs = {kind for kind, _ in options.asked} & {"keep", "remove"}
    if not (verbs or options.only):
        options.only = "target"
    options.output = str(result)
    with contextlib.redirect_stdout(sys.stderr):
        separate(options, spool)
    if options.pick or options.preview:
        return
    with open(result, "rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def separate(options: argparse.Namespace, spool: Path | None) -> int | None:
    piped = launched()[1] > 1 and "COLUMNS" in os.environ  # mlx.launch tells a terminal's size
    with Display(options.quiet, options.verbose, piped) as display:
        jobs, many = wanted(options, spool)
        if options.pick or options.preview:
            return None if launched()[0] else pictures.draw(options, jobs, display)
        session = Session(options, display)
        jobs = planned(options, jobs, many, session.named)
        return folders.separate(session, jobs) if many else alone(session, *jobs)


def alone(session: Session, job: Job) -> None:
    """One recording, with all extras, by all processes of mlx.launch; the first one tells."""
    options, display = session.options, session.display
    rank, count = launched()
    if count > 1 and not options.spans_only:  # all meet before they load the model
        group = joined_by_launch(options.lease, partial(give_up, options.lease))
        session.model.group = group
    if rank:
        warnings.simplefilter("ignore", SAMAudioWarning)
        if not options.spans_only:
            session.separate(job, checkpoint.beside(job.paths[0]), restart=not options.resume)
        return
    session.check(job)
    check_extras(options, job)
    resume = None if options.piped else checkpoint.beside(job.outputs[0].path)
    if options.spans_only:
        for line in spans.write(session.model, options, job):
            display.say(line)
        return
    sounds, values = session.separate(job, resume, restart=not options.resume)
    if options.keep_candidates:
        for candidate in sounds.run.stem_facts[0].candidates:
            candidate.save(*session.kept(candidate.seed))
    if options.spectrogram:
        pictures.spectrograms(options.spectrogram, job, sounds)
    if options.metrics_json:
        write_text(Path(options.metrics_json), json.dumps(values, indent=2) + "\n")
    if session.shown:
        for line in report.table(job, values):
            display.say(line)


def give_up(seconds: float) -> None:
    """What can end a process that waits for others in MLX."""
    say(f"error: another process did not answer for {seconds:g} s; --resume goes on", sys.stderr)
    sys.stderr.flush()
    os._exit(Gone.exit_status)


def check_extras(options: argparse.Namespace, job: Job) -> None:
    """What is wanted beside the stems can be written."""
    if options.metrics_json:
        writable(options.metrics_json, [".json"])
    if options.spectrogram:
        writable(options.spectrogram, [".png"])
        figures.figure(1, 1)  # without matplotlib, an error now
    if options.keep_candidates:
        if options.candidates == 1:
            raise SAMAudioError("--keep-candidates needs several of them: give -c too")
        if len(job.prompts) > 1:
            raise SAMAudioError("--keep-candidates takes one prompt at a time")
        make_folder(Path(options.keep_candidates))
    if options.spans_only:
        if len(job.prompts) > 1 or options.piped:
            raise SAMAudioError("--spans-only writes the times of one prompt to files")
        spans.names(job)
