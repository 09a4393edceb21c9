"""One separation from audio and prompt to stems: check, plan, encode, solve, decode, finish."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import mlx.core as mx
import numpy as np

from ..calls import alone, stepwise
from ..errors import SAMAudioError
from ..kinds import FilePath, Flag, Kind
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
from .progress import Tell, Watch, costs
from .separation import Chunk, Facts, Separation
from .solve import Field, follow, solve
from .windows import Windows, window_frames


@dataclass(frozen=True, eq=False)
class Item:
    """A recording and what is wanted of it."""

    mixture: Audio  # a `Mixture` once it is checked
    description: str
    spans: Sequence[Span] = ()
    video: MaskedVideo | None = None
    predicted: bool = False  # the spans

    def checked(self, networks: Networks) -> "Item":
        spans = check_prompt(self.description, self.spans, self.video)
        check_words(self.description, networks.config.vocabulary)
        return replace(self, spans=spans)

    def anchors(self, networks: Networks) -> np.ndarray:
        """Of each frame, (N,) int32. Raises SAMAudioError for spans outside of the recording."""
        rates = networks.sample_rate, networks.hop_length
        return np.array(anchors(self.spans, self.mixture.samples, *rates))

    def aligned_video(self) -> MaskedVideo | None:
        return self.video and aligned(self.video, self.mixture.source)

    def seen(self, networks: Networks) -> Features | None:
        """What is seen at each latent frame, encoded when it is asked for."""
        if self.video is None:
            return None
        times = np.arange(len(self.mixture)) * networks.hop_length / networks.sample_rate
        size = networks.config.vision.image_size
        return Features(networks.vision, size, self.aligned_video(), times)


Cancel = Annotated[Callable[[], bool], Kind(callable, "a function")]


@dataclass(frozen=True, kw_only=True, eq=False)
class Control:
    """How the caller accompanies a run. resume: where its state is kept, and gone on from unless
    restart."""

    progress: Tell | None = None
    cancel: Cancel | None = None
    resume: FilePath | None = None
    restart: Flag = False


class Run:
    """A separation, checked and planned, which is made when it is iterated; once.

    items: one recording, or the reference's padded batch of several. streaming: window after
    window, so that the first piece is final after one of them. memory: how the work is cut, and
    what it takes; windows: of the recording; watch: has the seconds of each stage.
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
        self.seeds = [settings.seed + i for i in range(len(items))]
        self._rows = len(items) if len(items) > 1 else max(settings.rounds)
        self._refuse(len(items))
        items = [item.checked(networks) for item in items]
        window = settings.window
        size, overlap = window_frames(networks, window, settings.overlap) if window else (None, 0)
        self.items = [
            replace(item, mixture=Mixture.of(networks, item.mixture, streaming, one_piece=not size))
            for item in items
        ]
        for item in self.items:
            item.anchors(networks)  # before anything is computed
        self.samples = max(item.mixture.samples for item in self.items)
        frames = networks.frames(self.samples)
        self.windows = Windows.over(frames, size or frames, overlap)
        draws.message(networks.config.codec, self.seeds, settings.message, settings.watermark)
        self._ranker, self._predictor = rank.ranker(settings.ranker), None
        if settings.predict_spans is not False and not all(item.spans for item in self.items):
            given = settings.predict_spans
            self._predictor = networks.predictor if given is True else given
        if settings.candidates != 1 and isinstance(self._ranker, rank.Weighted):
            told = rank.wanted(self.items[0].spans) or self._predictor is not None
            self._ranker.check(bool(told), self.items[0].video is not None)
        self.memory = self._pieces()
        self.watch = Watch(control.progress, *self._totals())
        self._begun, self._facts = False, None
        self._checkpoints: list[Path] = []

    def _refuse(self, items: int) -> None:
        """What cannot go together."""
        if items > 1 and self.settings.window is not None:
            raise SAMAudioError("a batch is solved in one piece: leave out the window")
        if self.settings.candidates != 1 and (items > 1 or self._streaming):
            what = "a stream" if self._streaming else "a batch"
            raise SAMAudioError(
                f"{what} has one candidate: use separate() or separate_long() for several"
            )
        if self._control.resume is not None and self._streaming:
            raise SAMAudioError("a stream cannot be resumed: use separate_long()")

    def _pieces(self) -> memory.Pieces:
        """How the work is cut to fit into memory."""
        networks = [self.networks.network]
        if any(item.video is not None for item in self.items):
            networks.append(self.networks.vision)
        networks += filter(None, [part_of(self._predictor, "network")])
        if self.settings.candidates != 1 and isinstance(self._ranker, rank.Weighted):
            networks += self._ranker.networks()
        work = memory.Work(
            frames=self.windows.frames,
            size=self.windows.size,
            windows=1 if self._streaming else len(self.windows.starts),
            rows=self._rows,
            together=len(self.items),
            samples=2 * self._rows * self.samples if self._rows > 1 else 0,
        )
        limit = self.settings.max_memory
        return memory.pieces(self.networks.config, weight_bytes(networks), work, limit)

    def _totals(self) -> tuple[dict[str, int], dict[str, float]]:
        """Units of each stage, and the work of one."""
        config, mixtures = self.networks.config, [item.mixture for item in self.items]
        ready = sum(mixture.encoded and mixture.samples == self.samples for mixture in mixtures)
        totals = {
            "load": 1,
            "encode": (len(mixtures) - ready) * self.windows.frames,
            "solve": self._rows * len(self.windows.starts) * len(self.plan),
            "rank": 0 if self.settings.candidates == 1 else self._rows,
            "decode": self._rows * self._stems * self.windows.frames,
            "write": 1,
        }
        return totals, costs(config.codec, config.transformer, self.windows.size)

    @property
    def _stems(self) -> int:
        """That are decoded; rankers compare the model's own residuals, whichever is wanted."""
        return 1 if self.settings.subtracts and self.settings.candidates == 1 else 2

    def __iter__(self) -> Iterator[Chunk]:
        """Consecutive pieces of the recording's stems; of several candidates, the best one's."""
        return stepwise(self.networks, self._chunks(), self._control.cancel)

    def results(self) -> list[Separation]:
        """All of every item, in memory."""
        if len(self.items) == 1:
            results = [Separation(**{**vars(self.facts), **made}) for made in [joined(list(self))]]
        else:
            with alone(self.networks, self._control.cancel):
                self.watch.start()
                stems = self.decoded(self.solved(self.conditions(), self.seeds), self.seeds)
                numbered = enumerate(zip(self.seeds, stems, strict=True))
                results = [self._finished(i, seed, row) for i, (seed, row) in numbered]
        self.forget()
        return results

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
        if self._begun:
            raise SAMAudioError("a run is made once: prepare another one")
        self._begun = True
        self.watch.start()
        conditions, presence = self.conditions(), []
        if self._rows > 1:
            best = self._ranked(conditions)
            self._facts = Facts(**{one.name: getattr(best, one.name) for one in fields(Facts)})
            yield Chunk(best.target, best.residual, best.sample_rate, best.spans, best.presence)
            return
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
        latents = [item.mixture for item in self.items]
        for mixture in latents:
            mixture.encode(chunk, watch)
        if not self._streaming or self._predictor is not None:
            latents = [mixture.padded(self.samples, chunk, watch) for mixture in latents]
        if self._predictor is not None:
            self._predict(latents)
        text, text_mask = networks.embed_text([item.description for item in self.items])
        rows = np.full((len(self.items), self.windows.frames), PADDING, np.int32)
        for row, item in zip(rows, self.items, strict=True):
            row[: len(item.mixture)] = item.anchors(networks)
        moments, seen = networks.moments(text, self.plan), [x.seen(networks) for x in self.items]
        watch.advance("encode")
        mx.clear_cache()
        return Conditions(networks, latents, text, text_mask, moments, rows, seen)

    def _predict(self, latents: Sequence[np.ndarray]) -> None:
        """Give spans to the items that have none."""
        windows = {}
        if len(self.windows.starts) > 1:
            windows = dict(window=self.settings.window, overlap=self.settings.overlap)
        missing = [i for i, item in enumerate(self.items) if not item.spans]
        found = predicted(
            self.networks,
            self._predictor,
            [latents[i] for i in missing],
            [self.items[i].mixture.samples for i in missing],
            [self.items[i].description for i in missing],
            **windows,
        )
        for i, spans in zip(missing, found, strict=True):
            self.items[i] = replace(self.items[i], spans=spans, predicted=True)

    def solved(self, conditions: Conditions, seeds: Sequence[int]) -> np.ndarray:
        """The state at t = 1, (N, R, 2C), a row for each seed."""
        items = range(len(seeds)) if len(self.items) > 1 else [0] * len(seeds)
        field = Field(conditions, self.windows, items, self.memory.windows, self.watch)
        saved = self._checkpoint(seeds)
        state = solve(field, self._noise(seeds), self.plan, self.watch, saved)
        mx.clear_cache()
        return state

    def _noise(self, seeds: Sequence[int]) -> np.ndarray:
        """The state at t = 0, (N, R, 2C)."""
        codec, given = self.networks.config.codec, self.settings.noise
        noise = np.array(draws.noise(codec, self.windows.frames, seeds, given))
        mx.clear_cache()
        return np.ascontiguousarray(noise.swapaxes(0, 1))

    def _streamed(self, conditions: Conditions) -> Iterator[mx.array]:
        """Consecutive waveforms (stems, t) of the only row."""
        if not self._streaming:
            states = self._cut(self.solved(conditions, self.seeds))
        else:
            noise = self._noise(self.seeds)[:, 0]
            pieces = follow(conditions, noise, self.windows, self.plan, self.watch)
            states = (piece[:, None] for piece in pieces)
        return (rows[0] for rows in self._decode(states, self.seeds))

    def decoded(self, state: np.ndarray, seeds: Sequence[int]) -> list[np.ndarray]:
        """The stems (stems, N * hop) of each row of a state at t = 1."""
        rows, count = [], self.memory.windows
        for i in range(0, len(seeds), count):
            pieces = self._decode(self._cut(state[:, i : i + count]), seeds[i : i + count])
            rows.extend(np.array(mx.concatenate(list(pieces), axis=-1)))
        return rows

    def _cut(self, state: np.ndarray) -> Iterator[np.ndarray]:
        """A state in pieces, of which one after the other goes to the device."""
        size = self.memory.frames if len(self.windows.starts) > 1 else len(state)
        return (state[i : i + size] for i in range(0, len(state), size))

    def _decode(self, states: Iterator[np.ndarray], seeds: Sequence[int]) -> Iterator[mx.array]:
        """Consecutive states (n, R, 2C) -> consecutive waveforms (R, stems, t)."""
        codec, settings = self.networks.config.codec, self.settings
        message = draws.message(codec, seeds, settings.message, settings.watermark)
        decoder = Decoder(
            self.networks.network.audio_codec, self._stems, self.memory.frames, self.watch
        )
        return decoder(states, message)

    def _ranked(self, conditions: Conditions) -> Separation:
        """The best of several candidates."""
        item, watch = self.items[0], self.watch
        known = dict(sample_rate=self.networks.sample_rate, description=item.description)
        known |= dict(spans=item.spans, video=item.aligned_video())

        def make(seeds: list[int]) -> list[np.ndarray]:
            rows = self.decoded(self.solved(conditions, seeds), seeds)
            return [stems[:, : self.samples] for stems in rows]

        def score(targets: np.ndarray, residuals: np.ndarray) -> object:
            scores = self._ranker(targets, residuals, item.mixture.wave(), **known)
            watch.advance("rank", len(targets) - watch.done("rank"))
            return scores

        found = candidates.ranked(make, score, self.settings)
        for stage in ("solve", "rank", "decode"):  # "auto" may have ended early
            watch.skip_rest(stage)
        results = tuple(
            replace(self._finished(0, seed, stems), score=next(iter(row.values())), scores=row)
            for seed, stems, row in found
        )
        return replace(max(results, key=lambda one: one.score), candidates=results)

    def _finish(self, i: int) -> Finish:
        item = self.items[i]
        predicted = item.spans if item.predicted else None
        return Finish(item.mixture, self.settings, item.spans, predicted)

    def _finished(self, i: int, seed: int, stems: np.ndarray) -> Separation:
        """An item's result from its whole stems (stems, T)."""
        stems = mx.array(stems[: 1 if self.settings.subtracts else 2])
        made = joined(list(self._finish(i)([stems])))
        return Separation(**{**vars(self._told(i, seed, ())), **made})

    def _told(self, i: int, seed: int, presence: Sequence[Presence]) -> Facts:
        item, networks = self.items[i], self.networks
        return Facts(
            model=networks.name,
            description=item.description,
            spans=item.spans,
            spans_predicted=item.predicted,
            video=item.video,
            settings=self.settings,
            seed=seed,
            sample_rate=networks.sample_rate,
            samples=item.mixture.samples,
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
        identity = {**self._identity, "setting": digest(self.settings.fingerprint(), seeds)}
        return Checkpoint(path, identity, not self._control.restart)

    @cached_property
    def _identity(self) -> dict[str, str]:
        """Fingerprints of what all rounds of candidates share; files are read whole for them."""
        prompts = [(item.description, item.spans, fingerprint(item.video)) for item in self.items]
        return {
            "file": digest(*(item.mixture.fingerprint() for item in self.items)),
            "model": self.networks.fingerprint(),
            "prompt": digest(prompts),
        }
