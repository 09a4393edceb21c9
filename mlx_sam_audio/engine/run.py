"""One separation from audio and prompt to stems: check, plan, encode, solve, decode, finish."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np

from .. import __version__
from ..calls import alone, stepwise
from ..errors import SAMAudioError
from ..prompts import PADDING
from ..ranking import rank
from ..settings import Settings, digest
from . import candidates, draws, memory, share
from .checkpoint import Checkpoint, identity
from .condition import Conditions
from .finish import Decoder, Finish, joined
from .item import Control, Item, Take, rows
from .mixture import Hearing, Mixture
from .networks import Networks, weight_bytes
from .predict import part_of, predicted
from .presence import Presence
from .progress import Watch, costs
from .separation import Chunk, Facts, Separation
from .solve import Field, follow, solve
from .windows import Windows, window_frames


class Run:
    """A separation, checked and planned, which is made when it is iterated; once.

    items: prompts for one recording, or the reference's padded batch of several recordings.
    streaming: window after window, so that the first piece is final after one of them. memory: how
    the work is cut, and what it takes; windows: of the recording; watch: has the seconds of each
    stage. Rows of the solver's state are voices of takes: a voice is a view of an item's recording.
    """

    def __init__(
        self,
        networks: Networks,
        items: Sequence[Item],
        settings: Settings,
        control: Control = Control(),  # noqa: B008 - immutable
        *,
        streaming: bool = False,
        batch: bool = False,
    ):
        self.networks, self.settings, self._control = networks, settings, control
        self.plan, self._streaming, self._batch = settings.plan, streaming, batch
        numbers = range(len(items))
        ones = [Take(settings.seed + i, [i]) for i in numbers]
        self.takes = ones if batch else [Take(settings.seed, numbers)]
        self._refuse()
        items = [item.checked(networks) for item in items]
        window = settings.window
        size, overlap = window_frames(networks, window, settings.overlap) if window else (None, 0)
        mixtures: dict[int, Mixture] = {}  # prompts share one
        for item in items:
            hearing = Hearing(settings.stereo, item.sample_rate)
            mixtures[id(item.mixture)] = mixtures.get(id(item.mixture)) or Mixture.of(
                networks, item.mixture, hearing, streaming, one_piece=not size
            )
        self.mixtures = list(mixtures.values())
        self.items = [replace(item, mixture=mixtures[id(item.mixture)]) for item in items]
        self.voices = [(i, view) for i in numbers for view in range(self.items[i].mixture.views)]
        for item in self.items:
            item.anchors(networks)  # before anything is computed
        self.samples = max(mixture.samples for mixture in self.mixtures)
        frames = networks.frames(self.samples)
        self.windows = Windows.over(frames, size or frames, overlap)
        self._message(self.takes)
        self._ranker, self._predictor = rank.ranker(settings.ranker), None
        if settings.predict_spans is not False and not all(item.spans for item in self.items):
            given = settings.predict_spans
            self._predictor = networks.predictor if given is True else given
        if settings.candidates != 1 and isinstance(self._ranker, rank.Weighted):
            for item in self.items:
                told = rank.wanted(item.spans) or self._predictor is not None
                self._ranker.check(bool(told), item.video is not None)
        self.memory = self._pieces()
        self.watch = Watch(control.progress, *self._totals())
        self._begun, self._facts = False, None
        self._checkpoints: list[Path] = []

    def _refuse(self) -> None:
        """What cannot go together."""
        if self._batch and self.settings.window is not None:
            raise SAMAudioError("a batch is solved in one piece: leave out the window")
        if self.settings.candidates != 1 and (self._batch or self._streaming):
            what = "a stream" if self._streaming else "a batch"
            raise SAMAudioError(
                f"{what} has one candidate: use separate() or separate_long() for several"
            )
        if self._control.resume is not None and self._streaming:
            raise SAMAudioError("a stream cannot be resumed: use separate_long()")

    @property
    def _rows(self) -> int:
        return len(self.voices) * max(self.settings.rounds)

    @property
    def _stems(self) -> int:
        return len(range(2)[self.settings.decoded])

    def _pieces(self) -> memory.Pieces:
        """How the work is cut to fit into memory."""
        networks = [self.networks.network]
        if any(item.video is not None for item in self.items):
            networks.append(self.networks.vision)
        networks += filter(None, [part_of(self._predictor, "network")])
        if self.settings.candidates != 1 and isinstance(self._ranker, rank.Weighted):
            networks += self._ranker.networks()
        kept = self._batch or self.settings.candidates != 1
        work = memory.Work(
            frames=self.windows.frames,
            size=self.windows.size,
            windows=1 if self._streaming else len(self.windows.starts),
            rows=self._rows,
            together=1 if kept else len(self.voices),
            samples=2 * self._rows * self.samples if kept else 0,
            filter=self._filter_bytes if self.settings.shares else 0,
        )
        limit = self.settings.max_memory
        return memory.pieces(self.networks.config, weight_bytes(networks), work, limit)

    @property
    def _filter_bytes(self) -> int:
        rate, channels = self.networks.sample_rate, self.mixtures[0].channels
        return share.work_bytes(rate, channels, 2 * len(self.voices), len(self.takes[0].items))

    def _totals(self) -> tuple[dict[str, int], dict[str, float]]:
        """Units of each stage, and the work of one."""
        config, left = self.networks.config, 0  # views to be encoded
        for mixture in self.mixtures:
            if not mixture.encoded or mixture.samples != self.samples:
                left += mixture.views
        totals = {
            "load": 1,
            "encode": left * self.windows.frames,
            "solve": self._rows * len(self.windows.starts) * len(self.plan),
            "rank": 0 if self.settings.candidates == 1 else max(self.settings.rounds),
            "decode": self._rows * self._stems * self.windows.frames,
            "write": 1,
        }
        return totals, costs(config.codec, config.transformer, self.windows.size)

    def __iter__(self) -> Iterator[Chunk]:
        """Consecutive pieces of the stems of one prompt; of several candidates, the best one's."""
        if len(self.items) > 1:
            raise SAMAudioError("there are several prompts: take the pieces of all from stems()")
        return (chunk for (chunk,) in self.stems())

    def stems(self) -> Iterator[tuple[Chunk, ...]]:
        """The same of all prompts."""
        return stepwise(self.networks, self._chunks(), self._control.cancel)

    def results(self) -> list[Separation]:
        """All of every item, in memory."""
        if self._batch:
            with alone(self.networks, self._control.cancel):
                self.watch.start()
                waves = self.decoded(self.solved(self.conditions(), self.takes), self.takes)
                made = zip(self.takes, waves, strict=True)
                results = [one for take, wave in made for one in self._finished(take, wave)]
        else:
            pieces = joined(list(self.stems()))
            told = zip(self.stem_facts, pieces, strict=True)
            results = [Separation(**{**vars(facts), **made}) for facts, made in told]
        self.forget()
        return results

    @property
    def facts(self) -> Facts:
        """What a report tells, once the run is complete."""
        return self.stem_facts[0]

    @property
    def stem_facts(self) -> list[Facts]:
        """The same of all prompts."""
        if self._facts is None:
            raise SAMAudioError("the run is not complete: take all of its pieces first")
        return [replace(facts, seconds=dict(self.watch.seconds)) for facts in self._facts]

    def forget(self) -> None:
        """Remove what the run could have been resumed from."""
        if self.networks.group.rank:
            return  # the first process knows when
        for path in self._checkpoints:
            path.unlink(missing_ok=True)

    def _chunks(self) -> Iterator[tuple[Chunk, ...]]:
        if self._begun:
            raise SAMAudioError("a run is made once: prepare another one")
        self._begun = True
        self.watch.start()
        conditions, (take,) = self.conditions(), self.takes
        if self.settings.candidates != 1:
            best = self._ranked(conditions)
            self._facts = [one.facts() for one in best]
            yield tuple(
                Chunk(one.target, one.residual, one.sample_rate, one.spans, one.presence)
                for one in best
            )
            return
        presences = [()] * len(self.items)
        for chunks in self._finish(take)(self._streamed(conditions)):
            presences = [old + new.presence for old, new in zip(presences, chunks, strict=True)]
            yield chunks
        self._facts = [self._told(take, *each) for each in enumerate(presences)]

    def conditions(self) -> Conditions:
        """Everything that does not change while the solver runs. A stream encodes its mixture
        when it needs it."""
        networks, watch, group = self.networks, self.watch, self.networks.group
        networks.read_weights()
        if group.size > 1:
            self._agree()
        chunk = self.memory.frames
        watch.advance("load", 1)
        for mixture in self.mixtures:
            mixture.encode(chunk, watch, group)
        latents = [item.mixture for item in self.items]
        if not self._streaming or self._predictor is not None:
            whole = {one: one.padded(self.samples, chunk, watch) for one in self.mixtures}
            latents = [whole[mixture] for mixture in latents]
        if self._predictor is not None:
            self._predict(latents)
        text, text_mask = networks.embed_text([item.description for item in self.items])
        anchors = np.full((len(self.items), self.windows.frames), PADDING, np.int32)
        for row, item in zip(anchors, self.items, strict=True):
            row[: len(item.mixture)] = item.anchors(networks)
        moments = networks.moments(text, self.plan)
        shown = {id(item.video): item for item in self.items}  # prompts may share a video
        shown = {key: item.seen(networks) for key, item in shown.items()}
        seen = [shown[id(item.video)] for item in self.items]
        watch.advance("encode")
        mx.clear_cache()
        return Conditions(networks, self.voices, latents, text, text_mask, moments, anchors, seen)

    def _agree(self) -> None:
        """Find out whether all processes of the group make the same run, and cut it for all."""
        settings = self.settings
        given = settings.fingerprint(), settings.decoded, settings.rounds, settings.residual
        given = *given, settings.gate, settings.absent, self._predictor is not None
        group = self.networks.group
        group.agree({"version": __version__, "version of MLX": mx.__version__})
        length = [mixture.samples for mixture in self.mixtures], self.voices
        group.agree({**self._identity, "setting": given, "length of the decoded file": length})
        cuts = group.gathered((self.memory.windows, self.memory.frames)).min(axis=0)
        self.memory = replace(self.memory, windows=int(cuts[0]), frames=int(cuts[1]))

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
        self.networks.group.agree({"predicted spans": [item.spans for item in self.items]})
        self.__dict__.pop("_identity", None)  # which tells the spans

    def solved(self, conditions: Conditions, takes: Sequence[Take]) -> np.ndarray:
        """The state at t = 1, (N, R, 2C)."""
        voices = [voice for _, voice in rows(takes, self.voices)]
        field = Field(conditions, self.windows, voices, self.memory.windows, self.watch)
        saved = self._checkpoint([take.seed for take in takes])
        state = solve(field, self._noise(takes), self.plan, self.watch, saved)
        mx.clear_cache()
        return state

    def _noise(self, takes: Sequence[Take]) -> np.ndarray:
        """The state at t = 0, (N, R, 2C): one noise for all voices of a take."""
        codec, given = self.networks.config.codec, self.settings.noise
        seeds = [take.seed for take in takes]
        noise = np.array(draws.noise(codec, self.windows.frames, seeds, given))
        mx.clear_cache()
        return np.stack([noise[take] for take, _ in rows(takes, self.voices)], axis=1)

    def _message(self, takes: Sequence[Take]) -> mx.array | None:
        """The watermark's bits for each row, (R, 2, 16); shares carry none."""
        codec, settings = self.networks.config.codec, self.settings
        if settings.shares:
            return None
        seeds = [take.seed for take in takes]
        message = draws.message(codec, seeds, settings.message, settings.watermark)
        if message is None:
            return None
        numbers = mx.array([take for take, _ in rows(takes, self.voices)])
        return message.reshape(len(takes), 2, -1)[numbers]

    def _streamed(self, conditions: Conditions) -> Iterator[mx.array]:
        """Consecutive waveforms (voices, stems, t) of the only take."""
        if not self._streaming:
            states = self._cut(self.solved(conditions, self.takes))
        else:
            noise, at_once = self._noise(self.takes), self.memory.windows
            states = follow(conditions, noise, self.windows, self.plan, at_once, self.watch)
        return self._decoder()(states, self._message(self.takes))

    def decoded(self, state: np.ndarray, takes: Sequence[Take]) -> list[np.ndarray]:
        """The waveforms (voices, stems, N * hop) of each take, of a state at t = 1."""
        decoder, message = self._decoder(), self._message(takes)
        length = len(state) * self.networks.hop_length
        waves = np.empty((state.shape[1], self._stems, length), np.float32)
        for i in range(0, len(waves), self.memory.windows):
            some = slice(i, i + self.memory.windows)
            bits = None if message is None else message[some]
            pieces = decoder(self._cut(state[:, some]), bits)
            waves[some] = np.array(mx.concatenate(list(pieces), axis=-1))
        owners = [take for take, _ in rows(takes, self.voices)]
        return np.split(waves, [owners.index(take) for take in range(1, len(takes))])

    def _cut(self, state: np.ndarray) -> Iterator[np.ndarray]:
        """A state in pieces, of which one after the other goes to the device."""
        size = self.memory.frames if len(self.windows.starts) > 1 else len(state)
        return (state[i : i + size] for i in range(0, len(state), size))

    def _decoder(self) -> Decoder:
        codec = self.networks.network.audio_codec
        frames, group = self.memory.frames, self.networks.group
        return Decoder(codec, self.settings.decoded, frames, self.watch, group)

    def _ranked(self, conditions: Conditions) -> list[Separation]:
        """Of each prompt, the best of several candidates."""
        (take,), watch = self.takes, self.watch

        def make(seeds: list[int]) -> list[np.ndarray]:
            takes = [take._replace(seed=seed) for seed in seeds]
            waves = self.decoded(self.solved(conditions, takes), takes)
            return [wave[..., : self.samples] for wave in waves]

        def score(waves: np.ndarray) -> candidates.Scores:
            scores = [self._scores(voice, waves[:, voice]) for voice in range(len(self.voices))]
            watch.advance("rank", len(waves) - watch.done("rank"))
            return candidates.averaged(scores)

        def of_first(waves: np.ndarray) -> candidates.Scores:
            """What the first process of a group finds, by which all choose alike."""
            found: candidates.Scores = {}

            def make() -> np.ndarray:
                found.update(score(waves))
                return next(iter(found.values()))

            row = self.networks.group.of_first((len(waves),), make)
            return {**found, next(iter(found), "score"): row.astype(np.float64).tolist()}

        alone = self.networks.group.size == 1
        found = candidates.ranked(make, score if alone else of_first, self.settings)
        for stage in ("solve", "rank", "decode"):  # "auto" may have ended early
            watch.skip_rest(stage)
        results = [
            [
                replace(one, score=next(iter(row.values())), scores=row)
                for one in self._finished(take._replace(seed=seed), waves)
            ]
            for seed, waves, row in found
        ]
        best = max(results, key=lambda prompts: prompts[0].score)
        prompts = zip(best, *results, strict=True)
        return [replace(one, candidates=tuple(every)) for one, *every in prompts]

    def _scores(self, voice: int, waves: np.ndarray) -> candidates.Scores:
        """Of the candidates (k, 2, T) of a voice."""
        item, view = self.items[self.voices[voice][0]], self.voices[voice][1]
        scores = self._ranker(
            waves[:, 0],
            waves[:, 1],
            item.mixture.waves()[view],
            sample_rate=self.networks.sample_rate,
            description=item.description,
            spans=item.spans,
            video=item.aligned_video(),
        )
        return candidates.checked(scores, len(waves))

    def _finish(self, take: Take) -> Finish:
        return Finish([self.items[i] for i in take.items], self.settings)

    def _finished(self, take: Take, waves: np.ndarray) -> list[Separation]:
        """The results of a take from its whole waveforms (voices, stems, T)."""
        made = enumerate(joined(list(self._finish(take)([mx.array(waves)]))))
        return [Separation(**{**vars(self._told(take, i, ())), **fields}) for i, fields in made]

    def _told(self, take: Take, number: int, presence: Sequence[Presence]) -> Facts:
        item, networks = self.items[take.items[number]], self.networks
        marks = networks.config.codec.watermark and not self.settings.shares
        return Facts(
            model=networks.name,
            description=item.description,
            spans=item.spans,
            spans_predicted=item.predicted,
            video=item.video,
            settings=self.settings,
            seed=take.seed,
            sample_rate=networks.sample_rate,
            samples=item.mixture.samples,
            windows=len(self.windows.starts),
            evaluations=len(self.plan),
            watermark=marks and self.settings.watermark,
            missing=networks.config.missing,
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
        found = {**self._identity, "setting": digest(self.settings.fingerprint(), seeds)}
        return Checkpoint(path, found, not self._control.restart)

    @cached_property
    def _identity(self) -> dict[str, str]:
        """What all rounds of candidates share."""
        return identity(self.networks, self.mixtures, self.items)
