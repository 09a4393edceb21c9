"""One separation from audio and prompt to two waveforms: encode, condition, solve, decode."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from .. import ode
from ..calls import public, stepwise
from ..errors import SAMAudioError, check_finite
from ..loading import load
from ..loading.tokenizers import SentencePieceTokenizer
from ..media import audio as audio_files
from ..media.video import Features, MaskedVideo, aligned
from ..models import chunks
from ..models.dit import Moment
from ..models.sam_audio import Condition, ModelConfig, Network
from ..models.vision import VisionEncoder
from ..prompts import PADDING, Span, anchors, check_prompt, check_words
from ..ranking import rank
from . import candidates as several
from . import draws, longform, memory
from .separation import Separation
from .timing import Clock

Audio = str | os.PathLike | np.ndarray | mx.array
Predict = bool | Callable  # `SpanPredictor.__call__`, or something like it


class SAMAudio:
    """A loaded model, for any thread, but one call at a time. `separate` is a pure function of its
    arguments."""

    def __init__(
        self,
        config: ModelConfig,
        network: Network,
        tokenizer: SentencePieceTokenizer,
        folder: Path | None = None,  # for what is loaded only when it is used
    ):
        self.config = config
        self.network = network
        self.tokenizer = tokenizer
        self.velocity = mx.compile(network.velocity, inputs=network)  # traced once for each shape
        self.folder = folder

    @classmethod
    def from_pretrained(
        cls, name: str | Path, revision: str | None = None, verify: bool = False
    ) -> "SAMAudio":
        """Load a converted model: a folder, a name in the local store, or a hub repo.

        verify: compare every byte with what the conversion wrote, as the first loading does.
        """
        folder = load.resolve(name, revision)
        return cls(*load.load(folder, verify), folder)

    @cached_property
    def vision(self) -> VisionEncoder:
        """The vision encoder, read from disk when a video is first given."""
        if self.folder is None:
            raise SAMAudioError("a model without a folder has no vision encoder to load")
        return load.load_vision(self.folder)

    @cached_property
    def predictor(self):
        """The `SpanPredictor`, read from disk when spans are first predicted."""
        from ..span_predictor import SpanPredictor

        return SpanPredictor.from_pretrained()

    @property
    def sample_rate(self) -> int:
        return self.config.codec.sample_rate

    @property
    def hop_length(self) -> int:
        return self.config.codec.hop_length

    @public
    def separate(
        self,
        audio: Audio,
        description: str = "",
        *,
        spans: Sequence[Span] = (),
        video: MaskedVideo | None = None,
        predict_spans: Predict = False,
        candidates: int | str = 1,
        ranker: str | Mapping[str, float] | Callable = rank.DEFAULT,
        gate: bool = False,
        method: str = "ab3",
        steps: int = 16,
        times: Sequence[float] | None = None,
        seed: int = 0,
        noise: mx.array | None = None,
        message: mx.array | None = None,
        watermark: bool = True,
        residual: str = "model",
        max_memory: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Separation:
        """Split `audio` into the described sound and the rest.

        audio: a path, or samples (T,) or (channels, T) at `sample_rate`. spans: where the sound
        is or is not. video: where the thing is seen that makes it. predict_spans: True, or a
        `SpanPredictor` (or functools.partial of one): where no spans are given, they are predicted.
        candidates: how many results the `ranker` (see `rank`) chooses from, or "auto": 2, 4 or 8,
        as long as the best two are close; candidate i is drawn from seed + i. gate: silence where
        the sound seems to be absent (see `presence`).

        method, steps, times: the ODE solver (see `ode`); 8 steps are fast, 32 are best; `times` is
        any grid from 0 to 1. noise (1, N, 2C) and message (2, 16) are drawn from `seed` unless
        given. residual: "model" for the model's own, or "subtract" for mixture - target, whose sum
        with the target is the mixture, and which need not be decoded. max_memory: bytes; the work
        is cut to fit.
        progress(done, total) counts evaluations of the network. Raises SAMAudioError.
        """
        most = max(several.rounds(candidates))
        plan = ode.plan(method, steps, times)
        check_residual(residual)
        (seed,) = draws.seeds_from(seed, 1)
        if candidates != 1 and (noise is not None or message is not None):
            raise SAMAudioError("noise= and message= belong to one candidate: give seed= instead")
        rank_by = rank.ranker(ranker)
        job = self.prepare(
            [audio], [description], [spans], [video], predict_spans, range(1, most), max_memory,
            rank_by if most > 1 else None,
        )  # fmt: skip
        counter = longform.Progress(progress, None, most * len(plan))
        solve = partial(self.solve, job, plan, noise, message, watermark, counter.advance)
        if candidates == 1:
            results = solve(residual, [seed])
        else:
            known = dict(sample_rate=self.sample_rate, description=description, spans=job.spans[0])
            known["video"] = None if video is None else aligned(video, audio)

            def score(targets: np.ndarray, residuals: np.ndarray):
                scores = rank_by(targets, residuals, job.waves[0], **known)
                job.clock.lap("rank")
                return scores

            # rankers compare the model's own residuals, whichever is wanted
            results = several.ranked(partial(solve, "model"), candidates, seed, score)
            counter.reach(most * len(plan), most * len(plan))
            if residual == "subtract":
                wave = mx.array(job.waves[0])
                results = [
                    replace(one, residual=wave - one.target).measured(job.predicted[0])
                    for one in results
                ]
        if gate:
            results = [one.gated(job.predicted[0]) for one in results]
        if candidates == 1:
            return results[0]
        return replace(max(results, key=lambda one: one.score), candidates=tuple(results))

    @public
    def separate_batch(
        self,
        audios: Sequence[Audio],
        descriptions: Sequence[str],
        *,
        spans: Sequence[Sequence[Span]] | None = None,
        videos: Sequence[MaskedVideo | None] | None = None,
        predict_spans: Predict = False,
        gate: bool = False,
        method: str = "ab3",
        steps: int = 16,
        times: Sequence[float] | None = None,
        seed: int = 0,
        noise: mx.array | None = None,
        message: mx.array | None = None,
        watermark: bool = True,
        residual: str = "model",
        max_memory: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Separation]:
        """Separate B items as the reference's padded batch does: a shorter clip's result depends
        on how far it is padded. Item i is drawn from seed + i. noise is (1 or B, N, 2C), message
        (2B, 16): target then residual of each item. progress counts every item's evaluations. The
        rest is as in `separate`.
        """
        plan = ode.plan(method, steps, times)
        check_residual(residual)
        seeds = draws.seeds_from(seed, len(audios))
        spans = [()] * len(audios) if spans is None else spans
        videos = [None] * len(audios) if videos is None else videos
        if not len(audios) == len(descriptions) == len(spans) == len(videos) or not len(audios):
            raise SAMAudioError(
                f"a batch needs as many audios ({len(audios)}) as descriptions "
                f"({len(descriptions)}), lists of spans ({len(spans)}) and videos ({len(videos)}), "
                "at least one"
            )
        at_once = range(len(audios), len(audios))
        job = self.prepare(audios, descriptions, spans, videos, predict_spans, at_once, max_memory)
        count = longform.Progress(progress, None, len(audios) * len(plan)).advance
        results = self.solve(job, plan, noise, message, watermark, count, residual, seeds)
        if not gate:
            return results
        return [one.gated(found) for one, found in zip(results, job.predicted, strict=True)]

    def prepare(
        self, audios, descriptions, spans, videos, predict_spans, at_once: range, max_memory,
        ranker=None,
    ) -> "Job":  # fmt: skip
        """Check and encode what is separated. at_once: how few and how many states are solved
        together. ranker: if its models take memory too."""
        spans = [check_prompt(*prompt) for prompt in zip(descriptions, spans, videos, strict=True)]
        for description in descriptions:
            check_words(description, self.config.vocabulary)
        waves = [self.samples(audio) for audio in audios]
        frames = -(-max(map(len, waves)) // self.hop_length)
        beside = self.beside(videos, predict_spans, ranker)
        pieces = self.pieces(frames, at_once, frames, max_memory, beside)
        self.read_weights()
        clock = Clock()
        lengths = list(map(len, waves))
        seen = [
            self.watch(video, audio, -(-length // self.hop_length))
            for video, audio, length in zip(videos, audios, lengths, strict=True)
        ]
        latents = self.latents(waves, pieces.frames)
        given = spans
        spans = self.with_predicted(predict_spans, latents, lengths, descriptions, given)
        predicted = [
            None if mine or predict_spans is False else found
            for mine, found in zip(given, spans, strict=True)
        ]
        condition = self.condition(latents, lengths, descriptions, spans, seen)
        mx.eval(condition)
        mx.clear_cache()
        clock.lap("encode")
        return Job(waves, spans, predicted, condition, pieces, clock)

    def solve(
        self, job: "Job", plan, noise, message, watermark, count, residual, seeds: list[int]
    ) -> list[Separation]:
        """From noise to waveforms: a result for each seed, of its item or all of the only one.

        count(n): called after each evaluation with its number of states.
        """
        at_once = job.pieces.windows if len(job.waves) == 1 else len(seeds)
        if len(seeds) > at_once:
            rest = job, plan, noise, message, watermark, count, residual
            groups = (seeds[i : i + at_once] for i in range(0, len(seeds), at_once))
            return [one for group in groups for one in self.solve(*rest, group)]
        items = range(len(job.waves)) if len(job.waves) > 1 else [0] * len(seeds)
        codec, frames = self.config.codec, job.condition.static.shape[1]
        noise = draws.noise(codec, frames, seeds, noise)
        message = draws.message(codec, seeds, message, watermark)
        for x in ode.integrate(self.field(job.condition, plan), noise, plan):
            mx.eval(x)
            count(len(seeds))
        check_finite(x)
        mx.clear_cache()
        job.clock.lap("solve")

        waves = [job.waves[i] for i in items]
        targets, residuals = self.decode(x, message, job.pieces.frames, residual)
        if residuals is None:
            residuals = [
                mx.array(w) - target[: len(w)] for w, target in zip(waves, targets, strict=True)
            ]
        job.clock.lap("decode")
        results = []
        for k, (i, wave) in enumerate(zip(items, waves, strict=True)):
            result = Separation(
                target=targets[k][: len(wave)],
                residual=residuals[k][: len(wave)],
                sample_rate=self.sample_rate,
                seed=seeds[k],
                spans=job.spans[i],
                evaluations=len(plan),
                seconds=job.clock.laps,
            )
            results.append(result.measured(job.predicted[i]))
        mx.eval([(one.target, one.residual) for one in results])
        return results

    @public
    def separate_long(
        self,
        audio: Audio,
        description: str = "",
        *,
        spans: Sequence[Span] = (),
        video: MaskedVideo | None = None,
        predict_spans: Predict = False,
        gate: bool = False,
        window: float = 10.0,
        overlap: float = 3.0,
        method: str = "ab3",
        steps: int = 16,
        times: Sequence[float] | None = None,
        seed: int = 0,
        noise: mx.array | None = None,
        message: mx.array | None = None,
        watermark: bool = True,
        residual: str = "model",
        max_memory: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Separation:
        """Separate audio of any length as one piece: see `longform`.

        window, overlap: seconds that the model sees at once, and that neighbours share. noise
        (1, N, 2C) covers the whole file. progress(done, total) counts windows x evaluations;
        when cancel() returns true, `Cancelled` (a SAMAudioError) is raised. The rest is as in
        `separate`, to which audio of one window or less is given.
        """
        options = self.long_options(
            description, steps, spans=spans, video=video, predict_spans=predict_spans, gate=gate,
            window=window, overlap=overlap, method=method, times=times, seed=seed, noise=noise,
            message=message, watermark=watermark, residual=residual, max_memory=max_memory,
            progress=progress, cancel=cancel,
        )  # fmt: skip
        clock = Clock()
        chunks = list(longform.separate(self, audio, description, options, clock=clock))
        stems = zip(*((chunk.target, chunk.residual) for chunk in chunks), strict=True)
        target, residual = map(mx.concatenate, stems)
        mx.eval(target, residual)
        return Separation(
            target=target,
            residual=residual,
            sample_rate=self.sample_rate,
            seed=seed,
            spans=chunks[0].spans,
            evaluations=len(options.plan),
            seconds=clock.laps,
            presence=tuple(row for chunk in chunks for row in chunk.presence),
        )

    @public
    def stream(
        self,
        audio: Audio,
        description: str = "",
        *,
        spans: Sequence[Span] = (),
        video: MaskedVideo | None = None,
        predict_spans: Predict = False,
        gate: bool = False,
        window: float = 10.0,
        overlap: float = 3.0,
        method: str = "ab3",
        steps: int = 16,
        times: Sequence[float] | None = None,
        seed: int = 0,
        noise: mx.array | None = None,
        message: mx.array | None = None,
        watermark: bool = True,
        residual: str = "model",
        max_memory: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Iterator[longform.Chunk]:
        """Yield consecutive chunks (target, residual, start, sample_rate) as they become final.

        The first one comes after about one window's work, unless spans are predicted: then the
        whole file is encoded before. Arguments as in `separate_long`.
        """
        options = self.long_options(
            description, steps, spans=spans, video=video, predict_spans=predict_spans, gate=gate,
            window=window, overlap=overlap, method=method, times=times, seed=seed, noise=noise,
            message=message, watermark=watermark, residual=residual, max_memory=max_memory,
            progress=progress, cancel=cancel,
        )  # fmt: skip
        pieces = longform.separate(self, audio, description, options, streaming=True)
        return stepwise(self, pieces)

    def long_options(self, description: str, steps: int, **settings) -> longform.Options:
        """Settings of `separate_long`, checked before anything is read."""
        options = longform.Options(**settings)
        draws.seeds_from(options.seed, 1)
        check_residual(options.residual)
        spans = check_prompt(description, options.spans, options.video)
        check_words(description, self.config.vocabulary)
        longform.window_frames(self, options.window, options.overlap)
        times = ode.grid(options.method, steps, options.times)
        return replace(options, times=times, spans=spans)

    def pieces(
        self,
        frames: int,
        at_once: range,
        size: int,
        max_memory: int | None,
        beside: Sequence[nn.Module] = (),
    ) -> memory.Pieces:
        """How the work is cut to fit into memory: see `memory`. beside: other networks in use."""
        networks = (self.network, *beside)
        weights = sum(v.nbytes for n in networks for _, v in tree_flatten(n.parameters()))
        return memory.pieces(self.config, weights, frames, at_once, size, max_memory)

    def read_weights(self) -> None:
        """Read what is not in memory yet, lest the GPU wait for a disk."""
        mx.eval(self.network.parameters())

    def beside(
        self, videos: Sequence[MaskedVideo | None], predict: Predict, ranker: Callable | None = None
    ) -> list[nn.Module]:
        """The networks that these prompts need beside the model's own."""
        networks = [self.vision] if any(video is not None for video in videos) else []
        networks += filter(None, [part_of(self.finder(predict), "network")])
        return networks + (ranker.networks() if isinstance(ranker, rank.Weighted) else [])

    def finder(self, predict: Predict) -> Callable | None:
        """What predicts spans, if they are to be predicted."""
        if predict is False:
            return None
        return self.predictor if predict is True else predict

    def mono(self, audio: np.ndarray | mx.array) -> np.ndarray:
        """(T,) or (channels, T) -> (T,) float32, at least one sample."""
        if isinstance(audio, mx.array) and audio.dtype == mx.bfloat16:  # which numpy lacks
            audio = audio.astype(mx.float32)
        wave = np.asarray(audio)
        if not np.issubdtype(wave.dtype, np.floating):
            raise SAMAudioError(
                f"samples must be floating-point numbers, -1 to 1, not {wave.dtype}"
            )
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
            wave = np.array(wave, dtype=np.float32)
        if wave.ndim == 2 and 0 < wave.shape[0] <= wave.shape[1]:
            wave = wave.mean(axis=0)
        if wave.ndim != 1:
            raise SAMAudioError(
                f"audio must be (T,) or (channels, T) at {self.sample_rate} Hz, not {wave.shape}"
            )
        if len(wave) == 0:
            raise SAMAudioError("the audio holds no samples")
        return audio_files.sound(wave, "the audio")

    def samples(self, audio: Audio) -> np.ndarray:
        """Checked mono samples (T,) float32 at the model's rate, short enough for one piece."""
        is_file = isinstance(audio, (str, os.PathLike))
        where = str(audio) if is_file else "the audio"
        wave = audio_files.read(audio, self.sample_rate) if is_file else self.mono(audio)
        frames, limit = -(-len(wave) // self.hop_length), self.config.transformer.max_positions
        if frames > limit:
            raise SAMAudioError(
                f"{where} lasts {len(wave) / self.sample_rate:.0f} s, more than the "
                f"{limit * self.hop_length / self.sample_rate:.0f} s the model takes in one piece: "
                "use separate_long()"
            )
        return wave

    def watch(self, video: MaskedVideo | None, audio: Audio, frames: int) -> Features | None:
        """What is seen at each of so many latent frames, encoded when it is asked for."""
        if video is None:
            return None
        times = np.arange(frames) * self.hop_length / self.sample_rate
        encoder, size = self.vision, self.config.vision.image_size
        return Features(encoder, size, aligned(video, audio), times)

    def encode(
        self,
        waves: Sequence[np.ndarray],
        descriptions: Sequence[str],
        spans: Sequence[tuple],
        seen: Sequence[Features | None] = (),
    ) -> Condition:
        """Everything the solver needs that does not change while it runs."""
        latents = self.latents(waves, memory.MOST_FRAMES)
        return self.condition(latents, list(map(len, waves)), descriptions, spans, seen)

    def latents(self, waves: Sequence[np.ndarray], chunk: int) -> mx.array:
        """Padded to one length, (B, N, C). chunk: frames that are encoded at a time."""
        longest = max(map(len, waves))
        batch = np.stack([np.pad(w, (0, longest - len(w))) for w in waves])
        encoded = chunks.encode(self.network.audio_codec, [batch], chunk)
        return mx.concatenate([latents for latents, _ in encoded], axis=1)

    def with_predicted(
        self, predict: Predict, latents, samples: list[int], descriptions, spans, **windows
    ) -> list[tuple[Span, ...]]:
        """The spans of every item, predicted where none are given. windows: `window`, `overlap`,
        for a file that is not to be seen at once."""
        missing = [i for i, given in enumerate(spans) if not given]
        spans = list(spans)
        if predict is False or not missing:
            return spans
        predict = self.finder(predict)
        config = part_of(predict, "config")
        rates = self.sample_rate, self.hop_length
        if config is not None and (config.sample_rate, config.hop_length) != rates:
            raise SAMAudioError(
                f"the span predictor reads latents of {config.sample_rate} Hz and hop length "
                f"{config.hop_length}, this model's have {rates[0]} and {rates[1]}"
            )
        found = predict(
            mx.array(latents)[mx.array(missing)],
            [descriptions[i] for i in missing],
            samples=[samples[i] for i in missing],
            **windows,
        )
        for i, row in zip(missing, found, strict=True):
            check_prompt(descriptions[i], row)
            spans[i] = row if isinstance(row, tuple) else tuple(row)
        return spans

    @public
    def predict_spans(
        self,
        audio: Audio,
        description: str,
        predictor: Predict = True,
        *,
        window: float = 10.0,
        overlap: float = 3.0,
        max_memory: int | None = None,
    ) -> tuple[Span, ...]:
        """The times at which the described sound occurs, in audio of any length.

        predictor: as `predict_spans` in `separate`. window, overlap: seconds heard at once, and
        shared by neighbours. Raises SAMAudioError.
        """
        check_prompt(description, ())
        size, _ = longform.window_frames(self, window, overlap)
        pieces = self.pieces(size, range(1, 1), size, max_memory, self.beside([], predictor))
        self.read_weights()
        blocks, _ = longform.source(self, longform.repeatable(self, audio))
        mixture = longform.Mixture(self, blocks, None, pieces.frames)
        heard = mixture[:][None], [mixture.samples], [description], [()]
        return self.with_predicted(predictor, *heard, window=window, overlap=overlap)[0]

    def condition(
        self,
        latents: mx.array,
        samples: Sequence[int],
        descriptions: Sequence[str],
        spans: Sequence[tuple],
        seen: Sequence[Features | None] = (),
    ) -> Condition:
        """From latents (B, N, C) of items that last so many samples, and their prompts."""
        hop, frames = self.hop_length, latents.shape[1]
        rows = [
            anchors(s, length, self.sample_rate, hop)
            for s, length in zip(spans, samples, strict=True)
        ]
        padded = min(map(len, rows)) < frames
        rows = mx.stack([mx.pad(r, (0, frames - len(r)), constant_values=PADDING) for r in rows])
        tokens, text_mask = self.tokenizer(list(descriptions))
        text = self.network.text_encoder(tokens, text_mask)
        pad_mask = rows != PADDING if padded else None
        video = None
        if any(features is not None for features in seen):
            video = np.zeros((*latents.shape[:2], self.config.vision.dim), np.float32)
            for row, features in zip(video, seen, strict=True):
                if features is not None:  # padding and items without video are zeros
                    row[: len(features)] = features[:]
        video = None if video is None else mx.array(video)
        return self.network.condition(latents, text, text_mask, rows, pad_mask, video)

    def field(self, condition: Condition, plan: Sequence[ode.Evaluation]) -> Callable:
        """The velocity as a function of t and x, at the times of a plan."""
        moments = self.moments(condition.text, plan)
        return lambda t, x: self.velocity(x, moments[t], condition)

    def moments(self, text: mx.array, plan: Sequence[ode.Evaluation]) -> dict[float, Moment]:
        """What depends on time and text (B, L, D) alone, made for all evaluations at once."""
        times = sorted({evaluation.time for evaluation in plan})
        moments = self.network.moments(times, text)
        mx.eval(moments)
        return dict(zip(times, moments, strict=True))

    def decode(
        self, x: mx.array, message: mx.array | None, chunk: int, residual: str
    ) -> tuple[mx.array, mx.array | None]:
        """The state (B, N, 2C) -> targets and residuals (B, N * hop), no residuals to subtract."""
        batch, frames, channels = x.shape
        stems = 1 if residual == "subtract" else 2
        latents = x.reshape(batch, frames, 2, channels // 2).swapaxes(1, 2)[:, :stems]
        latents = latents.reshape(stems * batch, frames, channels // 2)
        if message is not None:
            message = message.reshape(batch, 2, -1)[:, :stems].reshape(stems * batch, -1)
        parts = chunks.decode(self.network.audio_codec, [latents], message, chunk)
        audio = mx.concatenate(list(parts), axis=1).reshape(batch, stems, -1)
        check_finite(audio, "the codec's output")
        return audio[:, 0], audio[:, 1] if stems == 2 else None


@dataclass(frozen=True)
class Job:
    """What is separated, encoded."""

    waves: list[np.ndarray]  # (T,) each
    spans: list[tuple[Span, ...]]
    predicted: list[tuple[Span, ...] | None]  # those of them that were not given
    condition: Condition
    pieces: memory.Pieces
    clock: Clock


def part_of(predict: Callable, name: str):
    """A `SpanPredictor`'s network or config, if it is one, or a functools.partial of one."""
    return getattr(getattr(predict, "func", predict), name, None)


RESIDUALS = ("model", "subtract")


def check_residual(residual: str) -> None:
    if residual not in RESIDUALS:
        raise SAMAudioError(f"residual must be one of {', '.join(RESIDUALS)}, not {residual!r}")
