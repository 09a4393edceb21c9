"""What the command writes: both stems, as sounds or videos, together or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import files
from ..engine import checkpoint
from ..engine.run import Run
from ..errors import SAMAudioError, note
from ..files import whole, writable
from ..media import audio, sound_files, video_files


def outputs(source: Path, target: str | None, residual: str | None) -> tuple[Path, Path]:
    """The checked names of both files."""
    kinds = (*sound_files.WRITTEN, *video_files.WRITTEN)
    target = writable(target or f"{source.stem}.target.wav", kinds)
    if residual is None:
        residual = target.with_name(
            f"{target.stem.removesuffix('.target')}.residual{target.suffix}"
        )
    paths = target, writable(residual, kinds)
    if any(path.suffix.lower() in video_files.WRITTEN for path in paths):
        video_files.duration(source)  # it must have pictures to copy
    over = any(path.exists() and path.samefile(source) for path in paths)
    if over or os.path.realpath(paths[0]) == os.path.realpath(paths[1]):
        raise SAMAudioError("input, output and residual must be three different files")
    return paths


def write(run: Run, paths: tuple[Path, Path]) -> None:
    """Write both stems, or what the run could be resumed from."""
    try:
        notices = write_stems(run, paths)
    except KeyboardInterrupt as stop:
        more = "; --resume goes on" if os.path.lexists(checkpoint.beside(paths[0])) else ""
        stop.args = (f"no output was written{more}",)
        raise
    run.forget()
    run.watch.advance("write", 1)
    for notice in notices:
        note(notice)


def write_stems(run: Run, paths: tuple[Path, Path]) -> list[str]:
    """Write both stems as they come; they get their names together, when both are complete.
    Returns what is to be known of them."""
    recording, rate = run.items[0].mixture.source, run.networks.sample_rate
    notices = []
    with whole(*paths) as parts, contextlib.ExitStack() as stack:
        films = [path.suffix.lower() in video_files.WRITTEN for path in paths]
        # the sound of a film is a wav until it is complete
        waves = [stack.enter_context(spare(path)) if film else part
                 for film, part, path in zip(films, parts, paths, strict=True)]  # fmt: skip
        writers = []
        for wave, path in zip(waves, paths, strict=True):
            writers.append(sound_files.Writer(wave, path, rate, run.samples))
            stack.callback(writers[-1].discard)
        for chunk in run:
            for writer, stem in zip(writers, (chunk.target, chunk.residual), strict=True):
                writer.write(np.array(stem))
        for writer in writers:
            writer.close()
        for film, writer, wave, part, path in zip(films, writers, waves, parts, paths, strict=True):
            if film:
                sound = audio.blocks(wave, rate)
                recording.check()  # its pictures go with the sound that was separated
                notices += video_files.write(recording, sound, rate, part, path, writer.peak)
            elif writer.notice:
                notices.append(writer.notice)
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
