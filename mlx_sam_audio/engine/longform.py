"""Files of any length as one coherent piece.

Overlapping windows solve one ODE: at every evaluation their velocities are cross-faded into one
field over the whole file (MultiDiffusion, Bar-Tal et al., 2023), which starts from one noise.
`stream` does the same with one window after the other, each following, where it overlaps, the
trajectory that was fixed before it. N latent frames of the file, W of a window, C channels.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from .. import ode
from ..calls import go_on
from ..errors import Cancelled, SAMAudioError, check_finite
from ..media import audio as audio_files
from ..media.video import Features, MaskedVideo, aligned
from ..models import chunks
from ..models.dit import Moment
from ..prompts import Span, anchors
from ..ranking import rank
from . import draws
from .checkpoint import Checkpoint, digest
from .presence import Meter, Presence, gated
from .timing import Clock
from .windows import Windows, window_frames


@dataclass(frozen=True, eq=False)
class Chunk:
    """A piece of a stream; pieces follow one another without gap or overlap."""

    target: mx.array  # (t,) float32
    residual: mx.array  # (t,) float32
    start: float  # seconds
    sample_rate: int
    spans: tuple[Span, ...] = ()  # of the whole file, predicted ones included
    presence: tuple[Presence, ...] = ()  # of the windows that end in this piece
    candidates: tuple = ()  # if there are several, each a `Separation`


@dataclass(frozen=True)
class Options:
    """The settings of a long run, as in `SAMAudio.separate_long`."""

    spans: tuple[Span, ...]
    video: MaskedVideo | None
    predict_spans: bool | Callable
    gate: bool
    window: float
    overlap: float
    method: str
    times: list[float] | None
    seed: int
    noise: mx.array | None
    message: mx.array | None
    watermark: bool
    residual: str
    max_memory: int | None
    progress: Callable[[int, int], None] | None
    cancel: Callable[[], bool] | None
    candidates: int | str = 1  # for files of one window
    ranker: object = rank.DEFAULT

    @property
    def plan(self) -> list[ode.Evaluation]:
        return ode.plan(self.method, times=self.times)


WRONG_LENGTH = "the file is not as long as its header says: convert it to wav"


class Mixture:
    """The file's latents, encoded as far as somebody asked for them."""

    def __init__(self, model, blocks: Iterator[np.ndarray], samples: int | None, frames: int):
        codec, channels = model.network.audio_codec, model.config.codec.codebook_dim
        blocks = (block[None] for block in blocks)
        self._pieces, self._done = chunks.encode(codec, blocks, frames), 0
        if samples is None:
            pieces = [(np.array(z[0].astype(mx.float32)), n) for z, n in self._pieces]
            self._latents = np.concatenate([z for z, _ in pieces])
            self.samples, self._done = sum(n for _, n in pieces), len(self._latents)
        else:
            self._latents = np.zeros((-(-samples // model.hop_length), channels), np.float32)
            self.samples = samples

    def __len__(self) -> int:
        return len(self._latents)

    def __getitem__(self, cut: slice) -> np.ndarray:
        """Latents (n, C) of some frames."""
        while self._done < min(len(self) if cut.stop is None else cut.stop, len(self)):
            latents, samples = next(self._pieces, (None, 0))
            if latents is None or self._done + latents.shape[1] > len(self):
                raise SAMAudioError(WRONG_LENGTH)
            self._latents[self._done : self._done + latents.shape[1]] = np.array(
                latents[0].astype(mx.float32)
            )
            self._done += latents.shape[1]
        return self._latents[cut]


@dataclass(frozen=True)
class Prompt:
    """Everything encoded once: text features, and the anchors' spans."""

    text: mx.array  # (1, L, d_model)
    mask: mx.array  # (1, L)
    moments: dict[float, Moment]
    spans: tuple[Span, ...]
    seen: Features | np.ndarray | None = None  # (N, vision dim), or (B, W, vision dim)

    def within(self, cuts: list[slice]) -> "Prompt":
        """The prompt for some windows."""
        if self.seen is None:
            return self
        return replace(self, seen=np.stack([self.seen[cut] for cut in cuts]))

    @classmethod
    def encode(cls, model, description: str, spans, plan) -> "Prompt":
        tokens, mask = model.tokenizer([description])
        text = model.network.text_encoder(tokens, mask)
        mx.eval(text, mask)
        return cls(text, mask, model.moments(model.network.memory_proj(text), plan), spans)


class Progress:
    """Counts window evaluations, shows progress and lets the caller stop."""

    def __init__(self, progress: Callable | None, cancel: Callable | None, total: int):
        self._progress, self._cancel, self._total, self._done = progress, cancel, total, 0

    def skip(self, count: int) -> None:
        """What an interrupted run did already."""
        self._done += count

    def advance(self, count: int) -> None:
        self.reach(self._done + count, self._total)

    def reach(self, done: int, total: int) -> None:
        self._done = done
        if self._progress is not None:
            self._progress(done, total)
        obey(self._cancel)


def obey(cancel: Callable | None) -> None:
    go_on()
    if cancel is not None and cancel():
        raise Cancelled("stopped on request; nothing was written")


def watched(pieces: Iterator, cancel: Callable | None) -> Iterator:
    """The same, as long as the caller does not stop."""
    for piece in pieces:
        obey(cancel)
        yield piece


def velocities(model, prompt: Prompt, x, latents, rows, t: float) -> np.ndarray:
    """Velocities of B equal windows: x (B, W, 2C), latents (B, W, C), rows of anchors (B, W)."""
    seen = None if prompt.seen is None else mx.array(prompt.seen)
    condition = model.network.condition(
        mx.array(latents), prompt.text, prompt.mask, mx.array(rows), video=seen
    )
    return np.array(model.velocity(mx.array(x), prompt.moments[t], condition))


def solve(model, prompt: Prompt, latents, x, windows, plan, progress, at_once=1, saved=None):
    """The state at t = 1 of the whole file, (N, 2C): all windows in step, x changed in place.

    at_once: how many windows are solved in one evaluation. saved: a `Checkpoint`, which gives the
    step to start from and takes every further one.
    """
    rows = frame_anchors(model, prompt.spans, len(latents))
    weights = windows.weights()

    def slopes(y: np.ndarray, t: float) -> Iterator[tuple[int, int, np.ndarray]]:
        """The cross-faded velocity (b - a, 2C) of frames a..b, from the first to the last.

        No window that comes later reads those frames of y, so they may be overwritten.
        """
        first, held = 0, np.zeros((0, y.shape[1]), np.float32)
        for k in range(0, len(windows.starts), at_once):
            starts = windows.starts[k : k + at_once]
            cuts = [slice(s, s + windows.size) for s in starts]
            stacks = (np.stack([values[cut] for cut in cuts]) for values in (y, latents, rows))
            fields = velocities(model, prompt.within(cuts), *stacks, t)
            for i, (start, v) in enumerate(zip(starts, fields, strict=True), k):
                end, missing = start + windows.size, start + windows.size - first - len(held)
                held = np.concatenate([held, np.zeros((missing, y.shape[1]), np.float32)])
                held[start - first : end - first] += weights[i][:, None] * v
                done = windows.starts[i + 1] if i + 1 < len(windows.starts) else windows.frames
                yield first, done, held[: done - first]
                first, held = done, held[done - first :]
            progress.advance(len(starts))

    first, x, kept = (0, x, ()) if saved is None else saved.load(x)
    progress.skip(first * len(windows.starts))
    for done, slopes_kept in ode.integrate_in_place(slopes, x, plan, first, kept):
        check_finite(x)
        if saved is not None:
            saved.save(done, x, slopes_kept)
    return x


def frame_anchors(model, spans: tuple[Span, ...], frames: int) -> np.ndarray:
    """Anchors of frames 0..N of the file, (N,) int32; spans were checked before."""
    hop = model.hop_length
    return np.array(anchors(spans, frames * hop, model.sample_rate, hop))


def follow(model, prompt: Prompt, latents, noise, windows, plan, progress) -> Iterator:
    """States at t = 1, window after window: consecutive pieces (n, 2C) that are final.

    In the overlap the velocity fades from the one that the windows before used, at the same
    times, to the window's own; so it starts on their trajectory and no seam shows.
    """
    rows = frame_anchors(model, prompt.spans, len(latents))
    fixed: list[np.ndarray] = []  # velocities of every evaluation on the frames that overlap
    for k, start in enumerate(windows.starts):
        cut = slice(start, start + windows.size)
        after = windows.starts[k + 1] if k + 1 < len(windows.starts) else None
        before, fixed = fixed, []

        def field(t: float, x: np.ndarray, cut=cut, before=before, fixed=fixed, after=after):
            parts = (values[None] for values in (x, latents[cut], rows[cut]))
            v = velocities(model, prompt.within([cut]), *parts, t)[0]
            if before:
                old = before[len(fixed)]
                ramp = ((np.arange(len(old), dtype=np.float32) + 0.5) / len(old))[:, None]
                v[: len(old)] = (1 - ramp) * old + ramp * v[: len(old)]
            fixed.append(v[after - cut.start :].copy() if after is not None else v[:0])
            progress.advance(1)
            return v

        *_, x = ode.integrate(field, noise[cut], plan)
        check_finite(x)
        yield x if after is None else x[: after - start]


def separate(
    model, audio, description: str, options: Options, streaming=False, saved=(), clock=None
) -> Iterator[Chunk]:
    """Pieces of target and residual from the start of the file to its end.

    saved: path of the checkpoint and whether to resume from it, for a run that is not streaming.
    The caller removes it once the result is safe. clock: takes the seconds of each stage.
    """
    clock = clock or Clock()
    size, overlap = window_frames(model, options.window, options.overlap)
    audio = repeatable(model, audio)
    blocks, samples = source(model, audio)
    blocks = watched(blocks, options.cancel)
    opening, blocks = peek(blocks, size * model.hop_length + 1)
    if len(opening) <= size * model.hop_length:  # one window: exactly what separate() does
        yield from whole(model, opening, audio, description, options, clock)
        return
    if options.candidates != 1:
        raise SAMAudioError(
            f"several candidates are compared on at most one window ({options.window:g} s): choose "
            "a longer window, or one candidate"
        )
    frames = size if samples is None else -(-samples // model.hop_length)
    at_once = range(1, 1 if streaming else len(Windows.over(frames, size, overlap).starts))
    beside = model.beside([options.video], options.predict_spans)
    pieces = model.pieces(frames, at_once, size, options.max_memory, beside)
    model.read_weights()
    if samples is not None:
        anchors(options.spans, samples, model.sample_rate, model.hop_length)
    mixture = Mixture(model, blocks, samples if streaming else None, pieces.frames)
    anchors(options.spans, mixture.samples, model.sample_rate, model.hop_length)
    spans, predicted = options.spans, None
    if options.predict_spans is not False and not spans:
        heard = mixture[:][None], [mixture.samples], [description], [()]
        lengths = dict(window=options.window, overlap=options.overlap)
        (spans,) = model.with_predicted(options.predict_spans, *heard, **lengths)
        predicted = spans
    plan = options.plan
    seen = model.watch(options.video, audio, len(mixture))
    prompt = replace(Prompt.encode(model, description, spans, plan), seen=seen)
    clock.lap("encode")

    codec, seeds = model.config.codec, [options.seed]
    noise = np.array(draws.noise(codec, len(mixture), seeds, options.noise)[0])
    mx.clear_cache()
    message = draws.message(codec, seeds, options.message, options.watermark)
    windows = Windows.over(len(mixture), size, overlap)
    job = (
        model,
        prompt,
        mixture,
        noise,
        windows,
        plan,
        Progress(options.progress, options.cancel, len(windows.starts) * len(plan)),
    )
    checkpoint = None
    if streaming:
        states = follow(*job)
    else:
        if saved:
            same = identity(model, prompt, mixture, options, pieces)
            checkpoint = Checkpoint(saved[0], same, saved[1])
        state = solve(*job, pieces.windows, checkpoint)
        clock.lap("solve")
        mx.clear_cache()
        states = (state[i : i + pieces.frames] for i in range(0, len(state), pieces.frames))
    stems = decoded(model, states, message, pieces.frames, options.residual)
    stems = watched(stems, options.cancel)
    mixed = source(model, audio)[0] if options.residual == "subtract" else None
    whole_file = cut(model, stems, mixture.samples, mixed)
    if options.gate:
        yield from silenced(whole_file, model.sample_rate, spans, predicted)
    else:
        yield from looked_at(whole_file, mixture.samples, spans, predicted)
    clock.lap("solve and decode" if streaming else "decode")


def whole(
    model, samples: np.ndarray, audio, description, options: Options, clock
) -> Iterator[Chunk]:
    result = model.separate(
        samples,
        description,
        spans=options.spans,
        video=None if options.video is None else aligned(options.video, audio),
        predict_spans=options.predict_spans,
        candidates=options.candidates,
        ranker=options.ranker,
        gate=options.gate,
        method=options.method,
        times=options.times,
        seed=options.seed,
        noise=options.noise,
        message=options.message,
        watermark=options.watermark,
        residual=options.residual,
        max_memory=options.max_memory,
        progress=Progress(options.progress, options.cancel, 0).reach,
    )
    clock.laps.update(result.seconds)
    yield Chunk(
        target=result.target,
        residual=result.residual,
        start=0.0,
        sample_rate=result.sample_rate,
        spans=result.spans,
        presence=result.presence,
        candidates=result.candidates,
    )


def decoded(model, states, message, frames: int, residual: str) -> Iterator[mx.array]:
    """Final states (n, 2C) -> waveforms (2, t), or (1, t) of the target if that is all."""
    channels, stems = model.config.codec.codebook_dim, 1 if residual == "subtract" else 2
    latents = (mx.array(x).reshape(len(x), 2, channels).swapaxes(0, 1)[:stems] for x in states)
    message = None if message is None else message[:stems]
    return chunks.decode(model.network.audio_codec, latents, message, frames)


def cut(model, stems: Iterator[mx.array], samples: int, mixture=None) -> Iterator[Chunk]:
    """Waveforms as long as the file. mixture: its samples in blocks, if the rest is subtracted."""
    done, held = 0, np.zeros(0, np.float32)
    for audio in stems:
        check_finite(audio, "the codec's output")
        audio = audio[:, : samples - done]
        count = audio.shape[1]
        if mixture is not None:
            while len(held) < count:
                block = next(mixture, None)
                if block is None:
                    raise SAMAudioError(WRONG_LENGTH)
                held = np.concatenate([held, block])
            audio = mx.stack([audio[0], mx.array(held[:count]) - audio[0]])
            held = held[count:]
        mx.eval(audio)
        yield Chunk(audio[0], audio[1], done / model.sample_rate, model.sample_rate)
        done += count
    for _ in mixture or ():  # to its end, where it is found if it changed
        pass


def looked_at(pieces: Iterator[Chunk], samples: int, spans, predicted) -> Iterator[Chunk]:
    """The chunks of a file of so many samples, with what was found out about it."""
    meter, done = None, 0
    for piece in pieces:
        meter = meter or Meter(piece.sample_rate, predicted)
        done += len(piece.target)
        seen = list(meter.take(np.array(piece.target), np.array(piece.residual)))
        seen += meter.end() if done == samples else ()
        yield replace(piece, spans=spans, presence=tuple(row for row, _ in seen))


def silenced(pieces: Iterator[Chunk], sample_rate: int, spans, predicted) -> Iterator[Chunk]:
    """The same, in windows of presence, with silence where the sound is absent."""
    stems = ((np.array(piece.target), np.array(piece.residual)) for piece in pieces)
    for seen, (target, residual) in gated(stems, sample_rate, predicted):
        yield Chunk(mx.array(target), mx.array(residual), seen.start, sample_rate, spans, (seen,))


def source(model, audio) -> tuple[Iterator[np.ndarray], int | None]:
    """Blocks of mono samples, and how many there are if that is known beforehand."""
    if isinstance(audio, audio_files.Recording):
        return iter(audio), audio_files.length(audio, model.sample_rate)
    pieces = (audio[i : i + audio_files.BLOCK] for i in range(0, len(audio), audio_files.BLOCK))
    return pieces, len(audio)


def repeatable(model, audio) -> audio_files.Recording | np.ndarray:
    """Audio that can be read twice: checked samples, or a file that is the same both times."""
    if isinstance(audio, (str, os.PathLike)) and not isinstance(audio, audio_files.Recording):
        return audio_files.Recording(audio, model.sample_rate)
    return audio if isinstance(audio, audio_files.Recording) else model.mono(audio)


def peek(blocks: Iterator[np.ndarray], count: int) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """The first `count` samples or somewhat more, and all blocks again from the start."""
    seen, length = [], 0
    for block in blocks:
        seen.append(block)
        length += len(block)
        if length >= count:
            break
    return np.concatenate(seen), itertools.chain(seen, blocks)


def identity(model, prompt: Prompt, mixture: Mixture, options: Options, pieces) -> dict[str, str]:
    """Fingerprints of all that decides the result, so that nothing else is resumed."""
    network = model.network
    layers = (network.proj.noisy, network.memory_proj, network.transformer.t_block)
    weights = [layer.weight.astype(mx.float32) for layer in layers]
    return {
        "file": digest(mixture[:]),
        "model": digest(model.config, *weights),
        "prompt": digest(
            prompt.text.astype(mx.float32), prompt.spans, prompt.seen and prompt.seen[:]
        ),
        "setting": digest(
            options.window, options.overlap, options.method, options.times, options.seed,
            options.noise, options.message, options.watermark, options.residual, pieces,
        ),
    }  # fmt: skip
