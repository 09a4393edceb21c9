"""What the command writes: all results of a recording, as sounds or videos, together or not at
all."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from .. import files
from ..engine import checkpoint
from ..errors import note
from ..files import whole
from ..media import audio, containers, sound_files, video_files
from .names import Output
from .sounds import Sounds, mixed


def write(sounds: Sounds, outputs: Sequence[Output], bits: int | None) -> None:
    """Write all results, or what the run could be resumed from."""
    run = sounds.run
    if run.networks.group.rank:  # the first process writes what all have made
        for _ in run.stems():
            pass
        return
    try:
        notices = write_all(sounds, outputs, bits)
    except KeyboardInterrupt as stop:
        more = "; --resume goes on" if os.path.lexists(checkpoint.beside(outputs[0].path)) else ""
        stop.args = (f"no output was written{more}",)
        raise
    run.forget()
    run.watch.advance("write", 1)
    for notice in notices:
        note(notice)


def write_all(sounds: Sounds, outputs: Sequence[Output], bits: int | None) -> list[str]:
    """Write the results as they come; they get their names together, when all are complete.
    Returns what is to be known of them."""
    recording, rate, channels = sounds.source, sounds.rate, sounds.channels
    tags, notices = containers.tags(recording), []
    paths = [output.path for output in outputs]
    heard = any(output.result.recording for output in outputs)
    with whole(*paths) as parts, contextlib.ExitStack() as stack:
        # the sound of a film is a wav until it is complete
        waves = [stack.enter_context(spare(output.path)) if output.is_film else part
                 for output, part in zip(outputs, parts, strict=True)]  # fmt: skip
        writers = []
        for output, wave in zip(outputs, waves, strict=True):
            form = dict(channels=channels, bits=None if output.is_film else bits, tags=tags)
            name = wave.with_suffix(".wav") if output.is_film else output.path
            samples = sounds.run.samples * rate // sounds.run.networks.sample_rate
            writers.append(sound_files.Writer(wave, name, rate, samples, **form))
            stack.callback(writers[-1].discard)
        for pieces in sounds.pieces(heard):
            for writer, output in zip(writers, outputs, strict=True):
                writer.write(mixed(output.result, pieces))
        loudest = max(writer.peak for writer in writers)
        for writer in writers:
            writer.close(loudest)
        for output, writer, wave, part in zip(outputs, writers, waves, parts, strict=True):
            if output.is_film:
                sound = audio.blocks(wave, rate, channels)
                recording.check()  # its pictures go with the sound that was separated
                notices += video_files.write(
                    recording, sound, rate, part, output.path, loudest, channels
                )
            elif writer.notice:
                notices.append(writer.notice.replace(str(output.path), str(output)))
    return notices


@contextlib.contextmanager
def spare(path: Path) -> Iterator[Path]:
    """A name beside `path` for a file that is needed for a while."""
    name = files.part(path)
    try:
        yield name
    finally:
        files.remove(name)


def write_text(path: Path, text: str) -> None:
    with whole(path) as (part,):
        part.write_text(text)
