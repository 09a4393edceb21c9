"""One separation from audio and prompt to stems: check, plan, encode, solve, decode, finish."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..calls import alone, stepwise
from ..errors import SAMAudioError
from ..media.video import Features, MaskedVideo, aligned
from ..prompts import PADDING, Span, anchors, check_prompt, check_words
from ..ranking import rank
from ..settings import Settings, digest
from . import candidates, draws, memory
from .checkpoint import Checkpoint, fingerprint
from .condition import Conditions
from .finish import Decoder, Finish, joined
from .mixture import Audio, Mixture
from .networks import Networks, weight_bytes
from .predict import part_of, predicted
from .presence import Presence
from .progress import Progress, Watch, costs
from .separation import Chunk, Facts, Separation
from .solve import Field, follow, solve
from .windows import Windows, window_frames


@dataclass(frozen=True, eq=False)
class Item:
    """A recording and what is wanted of it."""

    audio: Audio
    description: str
    spans: Sequence[Span] = ()
    video: MaskedVideo | None = None

    def checked(self, networks: Networks) -> "Item":
        spans = check_prompt(self.description, self.spans, self.video)
        check_words(self.description, networks.config.vocabulary)
        return replace(self, spans=spans)


@dataclass(frozen=True, kw_only=True, eq=False)
class Control:
    """How the caller accompanies a run.

    predictor: finds the spans of items that have none, with the part of a `SpanPredictor`'s
    interface that `__call__` is. resume: where the state is kept, and gone on from unless restart.
    """

    predictor: Callable | None = None
    progress: Callable[[Progress], object] | None = None
    cancel: Callable[[], bool] | None = None
    resume: str | os.PathLike | None = None
    restart: bool = False


class Run:
    """A separation, checked and planned, which is made when it is iterated; once.

    items: one recording, or the reference's padded batch of several. streaming: window after
    window, so that the first piece is final after one of them. memory: how the work is cut, and
    what it takes; windows: of the recording; seconds: of each stage.
    """

    def __init__(
        self,
        networks: Networks,
        items: Sequence[Item],
        settings: Settings,
        control: Control = Control(),  # noqa: B008 - immutable
        streaming: bool = False,
    ):
        self.networks, self.settings, self._control = networks, settings, control
        self.plan, self._streaming = settings.plan, streaming
        self._rows = len(items) if len(items) > 1 else max(settings.rounds)
        self._check(items)
        self.items = [item.checked(networks) for item in items]
        if settings.window is not None:
            size, overlap = window_frames(networks, settings.window, settings.overlap)
        self.mixtures = [Mixture.of(networks, item.audio, streaming) for item in items]
        self.samples = max(mixture.samples for mixture in self.mixtures)
        frames = networks.frames(self.samples)
        if settings.window is None:
            self._check_one_piece()
            size, overlap = frames, 0
        self.windows = Windows.over(frames, size, overlap)
        self._anchors()  # spans outside of the recording are refused before anything is computed
        self._predicted = [control.predictor is not None and not item.spans for item in self.items]
        self.seeds = [settings.seed + i for i in range(len(items))]
        self._message(self.seeds)
        self._ranker = rank.ranker(settings.ranker)
        self.memory = self._pieces()
        self.watch = Watch(control.progress, *self._totals())
        self._facts: Facts | None = None
        self._checkpoints: list[Path] = []

    # ---- checks and plans

    def _check(self, items: Sequence[Item]) -> None:
        settings = self.settings
        if len(items) > 1 and settings.window is not None:
            raise SAMAudioError("a batch is solved in one piece: leave out the window")
        if settings.candidates != 1 and (len(items) > 1 or self._streaming):
            what = "a stream" if self._streaming else "a batch"
            raise SAMAudioError(
                f"{what} has one candidate: use separate() or separate_long() for several"
            )
        if self._control.resume is not None and self._streaming:
            raise SAMAudioError("a stream cannot be resumed: use separate_long()")

    def _check_one_piece(self) -> None:
        rate, hop = self.networks.sample_rate, self.networks.hop_length
        limit = self.networks.config.transformer.max_positions
        for mixture in self.mixtures:
            if len(mixture) > limit:
                raise SAMAudioError(
                    f"{mixture} lasts {mixture.samples / rate:.0f} s, more than the "
                    f"{limit * hop / rate:.0f} s the model takes in one piece: use separate_long()"
                )

    def _pieces(self) -> memory.Pieces:
        """How the work is cut to fit into memory."""
        networks = [self.networks.network]
        if any(item.video is not None for item in self.items):
            networks.append(self.networks.vision)
        if any(self._predicted):
            networks += filter(None, [part_of(self._control.predictor, "network")])
        if self.settings.candidates != 1 and isinstance(self._ranker, rank.Weighted):
            networks += self._ranker.networks()
        together = not self._streaming
        work = memory.Work(
            frames=self.windows.frames,
            size=self.windows.size,
            windows=len(self.windows.starts) if together else 1,
            rows=self._rows,
            samples=2 * self._rows * self.samples if self._rows > 1 else 0,
        )
        limit = self.settings.max_memory
        return memory.pieces(self.networks.config, weight_bytes(networks), work, limit)

    def _totals(self) -> tuple[dict[str, int], dict[str, float]]:
        """Units of each stage, and the work of one."""
        frames, config = self.windows.frames, self.networks.config
        totals = {
            "load": 1,
            "encode": sum(0 if m.encoded else len(m) for m in self.mixtures),
            "solve": self._rows * len(self.windows.starts) * len(self.plan),
            "rank": 0 if self.settings.candidates == 1 else self._rows,
            "decode": self._rows * self._stems * frames,
            "write": 1,
        }
        return totals, costs(config.codec, config.transformer, self.windows.size)

    @property
    def _stems(self) -> int:
        """That are decoded; rankers compare the model's own residuals, whichever is wanted."""
        subtract = self.settings.residual == "subtract" and self.settings.candidates == 1
        return 1 if subtract else 2

    # ---- stages

    def __iter__(self) -> Iterator[Chunk]:
        """Consecutive pieces of the recording's stems; of several candidates, the best one's."""
        return stepwise(self.networks, self._chunks(), self._control.cancel)

    def result(self) -> Separation:
        """All of it in memory."""
        made = joined(list(self))
        self.forget()
        return Separation(**{**vars(self.facts), **made})

    def results(self) -> list[Separation]:
        """Every item of a batch."""
        if len(self.items) == 1:
            return [self.result()]
        with alone(self.networks, self._control.cancel):
            self.watch.start()
            seeds = self.seeds
            stems = self.decoded(self.solved(self.conditions(), seeds), seeds)
            self.forget()
            return [self._finished(i, seed, stems[i]) for i, seed in enumerate(seeds)]

    @property
    def facts(self) -> Facts:
        """What a report tells, once the run is complete."""
        if self._facts is None:
            raise SAMAudioError("the run is not complete: take all of its pieces first")
        return replace(self._facts, seconds=dict(self.watch.seconds))

    def forget(self) -> None:
        """Remove what the run could have been resumed from."""
        for path in self._checkpoints:
            path.unlink(missing_ok=True)

    def _chunks(self) -> Iterator[Chunk]:
        self.watch.start()
        conditions = self.conditions()
        if self._rows > 1:
            best = self._ranked(conditions)
            self._facts = Facts(**{one.name: getattr(best, one.name) for one in fields(Facts)})
            yield Chunk(best.target, best.residual, best.sample_rate, best.spans, best.presence)
            return
        presence = []
        for chunk in self._finish(0)(self._streamed(conditions)):
            presence += chunk.presence
            yield chunk
        self._facts = self._told(0, self.settings.seed, presence)

    def conditions(self) -> Conditions:
        """Everything that does not change while the solver runs. A stream encodes its mixture
        when it needs it."""
        networks, watch, chunk = self.networks, self.watch, self.memory.frames
        networks.read_weights()
        watch.advance("load", 1)
        for mixture in self.mixtures:
            mixture.encode(chunk, watch)
        latents = self.mixtures
        if not self._streaming or any(self._predicted):
            latents = [m.padded(self.samples, chunk, watch) for m in self.mixtures]
        self._predict(latents)
        text, text_mask = networks.embed_text([item.description for item in self.items])
        conditions = Conditions(
            networks,
            latents,
            text,
            text_mask,
            networks.moments(text, self.plan),
            self._anchors(),
            [self._seen(*pair) for pair in zip(self.items, self.mixtures, strict=True)],
        )
        watch.advance("encode")
        mx.clear_cache()
        return conditions

    def _predict(self, latents: Sequence[np.ndarray]) -> None:
        """Give spans to the items that have none, if that is wanted."""
        missing = [i for i, wanted in enumerate(self._predicted) if wanted]
        if not missing:
            return
        windows = {}
        if len(self.windows.starts) > 1:
            windows = dict(window=self.settings.window, overlap=self.settings.overlap)
        found = predicted(
            self.networks,
            self._control.predictor,
            [latents[i] for i in missing],
            [self.mixtures[i].samples for i in missing],
            [self.items[i].description for i in missing],
            **windows,
        )
        for i, spans in zip(missing, found, strict=True):
            self.items[i] = replace(self.items[i], spans=spans)

    def _anchors(self) -> np.ndarray:
        """Of each frame of each item, (items, N) int32."""
        rate, hop = self.networks.sample_rate, self.networks.hop_length
        rows = np.full((len(self.items), self.networks.frames(self.samples)), PADDING, np.int32)
        for row, item, mixture in zip(rows, self.items, self.mixtures, strict=True):
            row[: len(mixture)] = np.array(anchors(item.spans, mixture.samples, rate, hop))
        return rows

    def _seen(self, item: Item, mixture: Mixture) -> Features | None:
        """What is seen at each latent frame, encoded when it is asked for."""
        if item.video is None:
            return None
        times = np.arange(len(mixture)) * self.networks.hop_length / self.networks.sample_rate
        size = self.networks.config.vision.image_size
        return Features(self.networks.vision, size, aligned(item.video, mixture.source), times)

    def _message(self, seeds: Sequence[int]) -> mx.array | None:
        settings = self.settings
        return draws.message(
            self.networks.config.codec, seeds, settings.message, settings.watermark
        )

    def _noise(self, seeds: Sequence[int]) -> np.ndarray:
        """The state at t = 0, (N, R, 2C)."""
        codec, frames = self.networks.config.codec, self.windows.frames
        noise = np.array(draws.noise(codec, frames, seeds, self.settings.noise))
        mx.clear_cache()
        return np.ascontiguousarray(noise.swapaxes(0, 1))

    def solved(self, conditions: Conditions, seeds: Sequence[int]) -> np.ndarray:
        """The state at t = 1, (N, R, 2C), a row for each seed."""
        items = range(len(seeds)) if len(self.items) > 1 else [0] * len(seeds)
        field = Field(conditions, self.windows, items, self.memory.windows, self.watch)
        saved = self._checkpoint(seeds)
        state = solve(field, self._noise(seeds), self.plan, self.watch, saved)
        mx.clear_cache()
        return state

    def _streamed(self, conditions: Conditions) -> Iterator[mx.array]:
        """Consecutive waveforms (stems, t) of the only row."""
        seeds = self.seeds
        message = self._message(seeds)
        if self._streaming:
            noise = self._noise(seeds)[:, 0]
            states = follow(conditions, noise, self.windows, self.plan, self.watch)
            states = (state[:, None] for state in states)
        else:
            states = self._cut(self.solved(conditions, seeds))
        return (audio[0] for audio in self._decoder(states, message))

    def decoded(self, state: np.ndarray, seeds: Sequence[int]) -> list[np.ndarray]:
        """The stems (stems, N * hop) of each row of a state at t = 1."""
        message = self._message(seeds)
        rows, count = [], self.memory.windows
        for i in range(0, len(seeds), count):
            marks = None if message is None else message[2 * i : 2 * (i + count)]
            parts = list(self._decoder(self._cut(state[:, i : i + count]), marks))
            rows.extend(np.array(mx.concatenate(parts, axis=-1)))
        return rows

    def _cut(self, state: np.ndarray) -> Iterator[np.ndarray]:
        """A state in pieces, of which one after the other goes to the device."""
        size = self.memory.frames if len(self.windows.starts) > 1 else len(state)
        return (state[i : i + size] for i in range(0, len(state), size))

    @property
    def _decoder(self) -> Decoder:
        codec = self.networks.network.audio_codec
        return Decoder(codec, self._stems, self.memory.frames, self.watch)

    def _ranked(self, conditions: Conditions) -> Separation:
        """The best of several candidates."""
        item, mixture, watch = self.items[0], self.mixtures[0], self.watch
        video = None if item.video is None else aligned(item.video, mixture.source)
        known = dict(sample_rate=self.networks.sample_rate, description=item.description)
        known |= dict(spans=item.spans, video=video)

        def make(seeds: list[int]) -> list[np.ndarray]:
            rows = self.decoded(self.solved(conditions, seeds), seeds)
            return [stems[:, : mixture.samples] for stems in rows]

        def score(targets: np.ndarray, residuals: np.ndarray) -> object:
            scores = self._ranker(targets, residuals, mixture.wave(), **known)
            watch.advance("rank", len(targets) - watch.done("rank"))
            return scores

        found, scores = candidates.ranked(make, score, self.settings)
        for stage in ("solve", "rank", "decode"):  # "auto" may have ended early
            watch.skip_rest(stage)
        rows = [dict(zip(scores, row, strict=True)) for row in zip(*scores.values(), strict=True)]
        results = [
            replace(
                self._finished(0, self.settings.seed + i, stems),
                score=next(iter(row.values())),
                scores=row,
            )
            for i, (stems, row) in enumerate(zip(found, rows, strict=True))
        ]
        return replace(max(results, key=lambda one: one.score), candidates=tuple(results))

    def _finish(self, i: int) -> Finish:
        """Of an item."""
        settings = self.settings
        return Finish(
            self.mixtures[i],
            settings.residual == "subtract",
            settings.gate,
            self.items[i].spans,
            self._predicted[i],
        )

    def _finished(self, i: int, seed: int, stems: np.ndarray) -> Separation:
        """An item's result from its whole stems (stems, T)."""
        stems = stems[: 1 if self.settings.residual == "subtract" else 2]
        made = joined(list(self._finish(i)(iter([mx.array(stems)]))))
        return Separation(**{**vars(self._told(i, seed, ())), **made})

    def _told(self, i: int, seed: int, presence: Sequence[Presence]) -> Facts:
        item, networks = self.items[i], self.networks
        return Facts(
            model=networks.name,
            description=item.description,
            spans=item.spans,
            spans_predicted=self._predicted[i],
            video=item.video,
            settings=self.settings,
            seed=seed,
            sample_rate=networks.sample_rate,
            samples=self.mixtures[i].samples,
            windows=len(self.windows.starts),
            evaluations=len(self.plan),
            watermark=networks.config.codec.watermark and self.settings.watermark,
            estimated_memory=self.memory.bytes,
            seconds=dict(self.watch.seconds),
            presence=tuple(presence),
        )

    def _checkpoint(self, seeds: Sequence[int]) -> Checkpoint | None:
        if self._control.resume is None:
            return None
        path = Path(self._control.resume)
        if seeds[0] != self.settings.seed:  # a later round of candidates
            path = path.with_name(f"{path.name}.{seeds[0]}")
        self._checkpoints.append(path)
        prompts = [(item.description, item.spans, fingerprint(item.video)) for item in self.items]
        identity = {
            "file": digest(*(mixture.fingerprint() for mixture in self.mixtures)),
            "model": self.networks.fingerprint(),
            "prompt": digest(prompts),
            "setting": digest(self.settings.fingerprint(), seeds),
        }
        return Checkpoint(path, identity, not self._control.restart)


def encoded(
    networks: Networks,
    audio: Audio,
    max_memory: int | None = None,
    tell: Callable[[Progress], object] | None = None,
    beside: nn.Module | None = None,
) -> Mixture:
    """Audio with all of its latents. beside: another network in use."""
    mixture = Mixture.of(networks, audio)
    if mixture.encoded:
        return mixture
    weights = weight_bytes(filter(None, [networks.network, beside]))
    work = memory.Work(frames=len(mixture), size=1)  # nothing is solved
    pieces = memory.pieces(networks.config, weights, work, max_memory)
    watch = Watch(tell, {"encode": len(mixture)}, {"encode": 1.0})
    networks.read_weights()
    mixture.encode(pieces.frames, watch)
    mixture[:]
    return mixture
