"""Separate every item, then score what was heard: two passes, so that the model and the networks
that judge it are never in memory together, and so that scores can be added later."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import soundfile
from tqdm import tqdm

from benchmarks.evaluation import metrics, scores
from benchmarks.evaluation.dataset import MISFIT, Dataset, Item, Missing, misfit
from benchmarks.evaluation.runs import Run, Task, line
from benchmarks.evaluation.scores import Heard
from mlx_sam_audio import SAMAudio, SAMAudioError, Settings
from mlx_sam_audio.engine import draws
from mlx_sam_audio.errors import note
from mlx_sam_audio.files import make_folder, whole
from mlx_sam_audio.media import sound_files
from mlx_sam_audio.media.sound_files import disk_is_full
from mlx_sam_audio.models import chunks

OTHERS = ("wrong", "absent")  # prompts for another sound than the item's
BESIDE = ("mixture", "codec")  # what is scored beside an estimate
SCORED = ("scores", *BESIDE, "why")  # parts of a row
FRAMES = 100  # that the codec decodes at a time


@dataclass(frozen=True)
class Ask:
    """What is evaluated of a dataset; more of it can be asked for later."""

    settings: tuple[str, ...] = ()  # (sub)sets; all of them unless given
    prompts: tuple[str, ...] = ()  # kinds, instead of those of the (sub)sets
    limit: int | None = None  # items of each (sub)set
    seeds: int = 1

    def tasks(self, dataset: Dataset) -> dict[Task, tuple[str, ...]]:
        """Each with the (sub)sets that it counts for, sorted. Raises SAMAudioError."""
        there = {name for item in dataset.items for name in item.settings}
        there |= {name for row in dataset.missing for name in row.settings or ()}
        strange = sorted(set(self.settings) - there)
        if strange:
            raise SAMAudioError(
                f"{dataset.name} has no setting {strange[0]!r}: it has {', '.join(sorted(there))}"
            )
        counts, found = dict.fromkeys(there, 0), {}
        sets = [(item.id, item.settings) for item in dataset.items]
        sets += [(row.id, row.settings or {}) for row in dataset.missing]
        for id, kinds in sorted(sets):
            for name, kind in kinds.items():
                if self.settings and name not in self.settings or counts[name] == self.limit:
                    continue
                counts[name] += 1
                for prompt in dict.fromkeys(self.prompts or (kind,)):
                    for k in range(self.seeds):
                        found.setdefault(Task(id, prompt, k), []).append(name)
        return {task: tuple(found[task]) for task in sorted(found)}


@dataclass(eq=False)
class Evaluation:
    """settings: of a separation, for a kind of prompt. base: the seed of all noise."""

    dataset: Dataset
    run: Run
    tasks: dict[Task, tuple[str, ...]]
    settings: Callable[[str], Settings]
    base: int
    lowercase: bool = False

    @cached_property
    def items(self) -> dict[str, Item]:
        return {item.id: item for item in self.dataset.items}

    @cached_property
    def absent(self) -> dict[str, str]:
        """Why items of the dataset are not there."""
        return {row.id: row.why for row in self.dataset.missing}

    def given(self, task: Task) -> dict:
        """The arguments of a separation. Raises Missing."""
        if task.id not in self.items:
            raise Missing(self.absent.get(task.id, "the dataset no longer has it"))
        self.items[task.id].mixture  # noqa: B018 - Missing where there is none
        return self.items[task.id].prompt(task.prompt, self.lowercase)

    def separate(self, load: Callable[[], SAMAudio]) -> dict[Task, str]:
        """Writes what each task makes, unless it is written. Returns why some failed."""
        failed = {}
        left = [task for task in self.tasks if self.run.separated(task) is None]
        model = load() if left else None
        for task in tqdm(left, desc="separate", unit="item", disable=not left):
            if error := self.tried(model, task):
                failed[task] = error
        return failed

    def tried(self, model: SAMAudio, task: Task) -> str | None:
        """Why it failed, if it did; what is missing does not."""
        try:
            self.make(model, task, self.given(task))
        except Missing:
            pass
        except SAMAudioError as error:
            if disk_is_full(self.run.folder):
                raise
            return str(error)
        return None

    def make(self, model: SAMAudio, task: Task, given: dict) -> None:
        item, settings = self.items[task.id], self.settings(task.prompt)
        settings = replace(settings, seed=task.seed(self.base))
        channels = 1 if settings.stereo == "mono" else 2
        self.beside(model, item, settings, channels)
        mx.reset_peak_memory()
        start = time.perf_counter()
        result = model.separate(item.mixture, settings=settings, **given)
        seconds = time.perf_counter() - start
        waves = {name: np.array(getattr(result, name)) for name in ("target", "residual")}
        folder = self.run.sounds(task)
        make_folder(folder)
        paths = [(folder / f"{name}.wav", wave) for name, wave in waves.items()]
        sound_files.write_all(paths, model.sample_rate)
        facts = {"seed": result.seed, "silenced": silenced(result.presence)}
        if result.spans_predicted:
            facts["spans"] = [[span.sign, span.start, span.end] for span in result.spans]
        if len(result.candidates) > 1 and task.prompt != "absent" and not settings.gate:
            targets = [np.atleast_2d(np.array(one.target)) for one in result.candidates]
            facts |= self.oracle(item, targets, model.sample_rate)
        with whole(folder / "facts.json") as (part,):
            part.write_text(line(facts))
        self.run.time(
            id=task.id,
            prompt=task.prompt,
            seed=task.k,
            seconds=seconds,
            audio_seconds=result.samples / model.sample_rate,
            stages=result.seconds,
            peak_memory_bytes=mx.get_peak_memory(),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )

    def oracle(self, item: Item, targets: Sequence[np.ndarray], rate: int) -> dict[str, float]:
        """The improvement of SI-SDR of the best of several targets (C, T), where it is defined."""
        wanted = self.rate(item, rate)
        truth, _ = item.truth(wanted, len(targets[0]))
        if truth is None:
            return {}
        mixture = item.read(item.mixture, wanted, len(truth))[:, : truth.shape[1]]
        gains = [gain(scores.at(one, rate, wanted), truth, mixture) for one in targets]
        known = [value for value in gains if value is not None]
        return {"oracle": max(known)} if known else {}

    def rate(self, item: Item, model_rate: int) -> int:
        """At which all is compared, in Hz."""
        return self.dataset.facts.metric_rate or min(model_rate, item.rate())

    def beside(self, model: SAMAudio, item: Item, settings: Settings, channels: int) -> None:
        """The mixture and the truth as the model could give them, once for each item."""
        folder, rate = self.run.sounds(item.id), model.sample_rate
        if (folder / "mixture.wav").exists():
            return
        make_folder(folder)
        target, residual = item.truth(rate, channels)
        mixture, sounds = item.read(item.mixture, rate, channels), {}
        if target is not None:
            if (off := misfit(mixture, target, residual)) > MISFIT:
                note(
                    f"{item.folder}: target and residual do not add up to the mixture "
                    f"({off:.0f} dB)"
                )
            rounds = [round_trip(model, channel, settings) for channel in target]
            sounds |= {"reference": target, "codec": np.stack(rounds)}
        sounds["mixture"] = mixture  # the last: then all are there
        for name, wave in sounds.items():
            sound_files.write(folder / f"{name}.wav", one(wave.astype(np.float32)), rate)

    def score(
        self,
        names: Sequence[str],
        network: Callable[[str], Any],
        failed: dict[Task, str],
        joined: dict[str, dict],
    ) -> list[dict]:
        """The rows of all tasks; what was scored before is kept. joined: scores of other tools, by
        name, then by task or id."""
        kept, rows = self.run.kept(), []
        ceiling = lru_cache(maxsize=8)(self.baseline)  # prompts and seeds of an item follow on
        for task in tqdm(self.tasks, desc="score", unit="item"):
            old = kept.get(task, {})
            row = self.row(task, failed.get(task), old)
            if row["status"] == "ok":
                row = self.scored(
                    row, [n for n in names if n not in row["scores"]], network, ceiling
                )
                row["scores"] |= {
                    name: values.get(task, values.get(task.id))
                    for name, values in joined.items()
                    if task in values or task.id in values
                }
                for key in SCORED[:3]:
                    row[key] = in_order(row[key])
            if row != old:
                self.run.append(row)
            rows.append(row)
        others = [row for task, row in kept.items() if task not in self.tasks]
        self.run.complete(rows + others)
        return rows

    def scored(self, row: dict, names: Sequence[str], network: Callable, ceiling: Callable) -> dict:
        """The row with scores of those names."""
        task = Task.of(row)
        if not names:
            return row
        if self.run.separated(task) is None:  # but it was scored before
            return row | {"why": row["why"] | dict.fromkeys(names, "its sounds were not kept")}
        try:
            found, why = scores.score(self.heard(task, network), names)
            beside = [ceiling(task.id, task.prompt, kind, tuple(names), network) for kind in BESIDE]
        except (SAMAudioError, soundfile.LibsndfileError) as error:
            return row | {"status": "error", "error": str(error)}
        added = dict(zip(SCORED, (found, *beside, why), strict=True))
        return row | {key: row[key] | added[key] for key in SCORED}

    def row(self, task: Task, error: str | None, old: dict) -> dict:
        """With the scores that it had. error, old: of this run, and the row of one before."""
        item, facts, status, words = self.items.get(task.id), self.run.separated(task), "ok", None
        was_scored = old.get("status") == "ok"
        try:
            words = self.given(task).get("description")
            if facts is None and not was_scored:
                status, error = "error", error or old.get("error") or "it was not separated"
        except Missing as why:
            status, error = "missing", str(why)
        except SAMAudioError as why:
            status, error = "error", str(why)
        kept = status == "ok" and was_scored
        return {
            **dict(id=task.id, prompt=task.prompt, seed=task.k, status=status),
            "error": None if status == "ok" else error,
            "group": item.group if item else task.id,
            "class": item.told.label if item else None,
            "settings": sorted({*old.get("settings", ()), *self.tasks[task]}),
            "description": words,
            "duration": self.duration(task) if status == "ok" and facts else old.get("duration"),
            **{key: dict(old[key]) if kept else {} for key in SCORED},
            "facts": facts or old.get("facts", {}),
        }

    def duration(self, task: Task) -> float:
        return soundfile.info(str(self.run.sounds(task.id) / "mixture.wav")).duration

    def heard(self, task: Task, network: Callable, kind: str | None = None) -> Heard:
        """An estimate, or in its place the mixture or the codec's round trip of the truth."""
        item, folder = self.items[task.id], self.run.sounds(task)
        beside, given = self.run.sounds(task.id), self.given(task)
        path = folder / "target.wav" if kind is None else beside / f"{kind}.wav"
        wave, model_rate = sound(path)
        mixture, _ = sound(beside / "mixture.wav")
        rate = self.rate(item, model_rate)
        channels = len(wave)
        target, residual = (None, None)
        if task.prompt != "absent":
            target, residual = item.truth(rate, channels)
        rest = {None: folder / "residual.wav", "mixture": beside / "mixture.wav"}.get(kind)
        rest = scores.at(sound(rest)[0], model_rate, rate) if rest else None
        arrays = item.read(item.mixture, rate, channels), scores.at(wave, model_rate, rate), rest
        size = min(x.shape[1] for x in (*arrays, target, residual) if x is not None)
        cut = [None if x is None else x[:, :size] for x in (*arrays, target, residual)]
        return Heard(
            rate,
            *cut,
            model_rate=model_rate,
            wave=wave.mean(0),
            mixture_wave=mixture.mean(0),
            description=given.get("description", ""),
            spans=() if task.prompt in OTHERS else item.spans,
            video=given.get("video"),
            facts=self.run.separated(task) or {} if kind is None else {},
            network=network,
            unknown="the sound is absent" if task.prompt == "absent" else "the target is not known",
        )

    def baseline(
        self, id: str, prompt: str, kind: str, names: tuple[str, ...], network: Callable
    ) -> dict[str, float]:
        """What can be said of the untouched mixture, or of the codec's round trip."""
        if not (self.run.sounds(id) / f"{kind}.wav").exists():
            return {}
        if kind == "codec" and prompt in OTHERS:
            return {}
        heard = self.heard(Task(id, prompt, 0), network, kind)
        found, _ = scores.score(heard, names)
        return {name: value for name, value in found.items() if value is not None}


def sound(path: Path) -> tuple[np.ndarray, int]:
    """(C, T) float32 and its rate."""
    samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    return samples.T, rate


def one(wave: np.ndarray) -> np.ndarray:
    """(1, T) as (T,)."""
    return wave[0] if len(wave) == 1 else wave


def round_trip(model: SAMAudio, wave: np.ndarray, settings: Settings) -> np.ndarray:
    """A sound (T,) through the codec, marked as a target would be."""
    mixture, codec = model.encode(wave.astype(np.float32)), model.config.codec
    message = draws.message(codec, [settings.seed], settings.message, settings.watermark)
    message = None if message is None else message[:, 0]
    pieces = chunks.decode(
        model.network.audio_codec, [mx.array(mixture[:]).swapaxes(0, 1)], message, FRAMES
    )
    return np.array(mx.concatenate(list(pieces), axis=1))[0, : len(wave)]


def silenced(presence: Sequence) -> float:
    """The share of the time in which the sound seems to be absent."""
    seconds = sum(row.end - row.start for row in presence)
    return sum((row.end - row.start) * row.absent for row in presence) / seconds


def gain(estimate: np.ndarray, source: np.ndarray, mixture: np.ndarray) -> float | None:
    """The improvement of SI-SDR, if it is defined."""
    try:
        size = min(estimate.shape[1], source.shape[1])
        estimate, source, mixture = (wave[:, :size] for wave in (estimate, source, mixture))
        return metrics.si_sdr(estimate, source) - metrics.si_sdr(mixture, source)
    except metrics.Undefined:
        return None


def in_order(found: dict) -> dict:
    """Metrics as the table has them, then those of other tools."""
    names = [*scores.METRICS, *sorted(found.keys() - scores.METRICS.keys())]
    return {name: found[name] for name in names if name in found}
