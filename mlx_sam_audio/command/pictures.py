"""Pictures that the command draws: frames with a grid, boxes and masks, spectrograms."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import SAMAudioError
from ..files import announce, writable
from ..media import audio, preview, spectrogram
from .display import Display
from .jobs import Job
from .sounds import Sounds


def draw(options: argparse.Namespace, jobs: Sequence[Job], display: Display) -> None:
    """The pictures that help to say where the thing is."""
    if len(jobs) > 1:
        raise SAMAudioError("--pick and --preview draw one video: name one")
    (prompt,), source = jobs[0].prompts, jobs[0].source.path
    shown = prompt.video(options.video, source)
    for path in filter(None, (options.pick, options.preview)):
        if prompt.mask and os.path.realpath(path) == os.path.realpath(prompt.mask):
            raise SAMAudioError(f"{path} is the mask itself: choose another name")
        writable(path, [".png"])
        announce(path)
    if options.pick:
        preview.contact_sheet(options.video or source, options.pick)
        display.say(f"wrote {options.pick}: read a box off it for --box X0,Y0,X1,Y1")
    if options.preview:
        if shown is None or shown.mask is None:
            raise SAMAudioError("--preview draws a --box or a --mask: give one of them")
        preview.preview(shown, options.preview)
        display.say(f"wrote {options.preview}")


def spectrograms(path: str, job: Job, sounds: Sounds) -> None:
    """Draw the recording and all that was made of it."""
    run, rate = sounds.run, sounds.run.networks.sample_rate
    rows = {f"mixture: {Path(str(job.source)).name}": iter(sounds.source)}
    alone = len(job.prompts) == 1 and job.prompts[0].description
    for output in job.outputs:
        label = output.result.label
        title = f"target: {alone}" if label == "target" and alone else label
        if label != "mixture":
            rows[title] = audio.blocks(output.path, rate, sounds.channels)
    spectrogram.save(path, rows, run.samples, rate, run.stem_facts[0].spans)
