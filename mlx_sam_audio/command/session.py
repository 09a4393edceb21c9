"""One command's model and settings, and what it does with one recording after the other."""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path

import mlx.core as mx

from .. import __version__
from ..calls import Cancel
from ..engine import checkpoint, memory
from ..errors import SAMAudioError, note
from ..files import announce, existing, sha256
from ..kinds import RATES
from ..media import audio
from ..media.video import MaskedVideo
from ..model import SAMAudio
from ..settings import Settings, digest
from . import choice, names, report
from .display import Display
from .jobs import Job
from .options import predictor, settings_of
from .sounds import Sounds
from .write import write

INPUT = "input"  # --rate, for the recording's


class Session:
    """What all recordings of a command share."""

    def __init__(self, options: argparse.Namespace, display: Display):
        self.options, self.display = options, display
        self.settings, self.rate = settings_of(options), told_rate(options.rate)
        self.loading = 0.0  # seconds
        self.cancel: Cancel | None = None  # asked after every step whether to stop

    @cached_property
    def model_name(self) -> str:
        """Of -m, or of the largest that fits."""
        options = self.options
        if options.model not in (None, "auto"):
            return options.model
        name, reason = choice.largest_that_fits(options.max_memory, options.window)
        self.display.say(reason)
        return name

    @cached_property
    def model(self) -> SAMAudio:
        if self.options.quiet:
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        self.display.detail(f"loading {self.model_name}")
        start = time.perf_counter()
        model = SAMAudio.from_pretrained(self.model_name, verify=self.options.verify)
        self.loading = time.perf_counter() - start
        return model

    @cached_property
    def predictor(self):
        return predictor(self.options)

    @property
    def named(self) -> dict[str, object]:
        """What names of results may hold, beside what is a recording's own."""
        told = {"ext": self.options.format or "wav", "seed": self.settings.seed}
        if "{model}" in self.options.name:
            told["model"] = Path(self.model_name).name
        return told

    @property
    def shown(self) -> bool:
        """Is a report printed?"""
        silent = self.options.no_metrics or self.options.quiet
        return not silent and os.environ.get("SAM_AUDIO_METRICS") != "0"

    def check(self, job: Job) -> None:
        """Raises SAMAudioError for what would fail later: it can be read, written and shown."""
        existing(job.source.path)
        names.check(job.outputs, job.source.path)

    def rate_of(self, source: Path) -> int:
        """At which the results of a recording are written."""
        if self.rate == INPUT:
            return audio.beginning(source)[1]
        return self.rate or self.model.sample_rate

    def settings_for(self, job: Job) -> Settings:
        """Stereo as the recording is, unless it is to be one channel; only what is written is
        decoded."""
        stereo = self._stereo(job.source.path)
        residual, results = self.settings.residual, [output.result for output in job.outputs]
        if stereo != "mono" or len(job.prompts) > 1:
            if residual == "subtract":
                note("stereo and several stems add up to the recording without --subtract, too")
            residual = "share"
        elif residual == "model" and self.settings.candidates == 1:
            if not any(result.rest for result in results):
                residual = "subtract"
            elif not any(any(result.targets) for result in results):
                residual = "alone"
        return replace(self.settings, residual=residual, stereo=stereo)

    def _stereo(self, path: Path) -> str:
        """How the channels are heard."""
        sides = self.options.sides or "both"
        count = 1 if sides == "mono" else audio.channels(path)
        if count > 2 and not audio.folds(path):
            note(f"{path} does not name its {count} channels: they are averaged to one")
            count = 1
        return "mono" if count == 1 else sides

    def separate(
        self, job: Job, resume: Path | None, restart: bool, many: bool = False
    ) -> tuple[Sounds, dict]:
        """Make and write all results of a recording, one of many or not. Returns what pictures
        need, and a report."""
        start, prompts, source = time.perf_counter(), job.prompts, job.source.path
        settings = self.settings_for(job)
        rate, pictures = self.rate_of(source), self._pictures(job)
        names.check_form(job.outputs, rate, self.options.bits)
        if settings.predict_spans and not all(prompt.spans for prompt in prompts):
            settings = replace(settings, predict_spans=self.predictor)
        run = self.model.prepare_stems(
            source,
            [prompt.description for prompt in prompts],
            spans=[prompt.spans for prompt in prompts],
            videos=pictures,
            share=settings.shares,
            settings=settings,
            progress=self.display,
            cancel=self.cancel,
            resume=resume,
            restart=restart,
        )
        self.display.follow(run.watch)
        if restart and not self.options.overwrite:
            announce(*job.paths, *self._extras())
        sounds = Sounds(run, rate, source, adds=settings.residual != "model")
        offered = memory.text(memory.offered(settings.max_memory))
        tell = self.display.say if self.shown and not many else self.display.detail
        tell(f"memory    about {memory.text(run.memory.bytes)} of {offered}")
        for prompt in prompts:
            told = " ".join([repr(prompt.description), report.spans_of(prompt.spans)])
            self.display.detail(f"separating {told} from {job.source}")
        with memory.wired(settings.max_memory):
            write(sounds, job.outputs, self.options.bits)
        facts = run.stem_facts
        seconds = {**facts[0].seconds, "load": self.loading + facts[0].seconds["load"]}
        seconds["total"] = self.loading + time.perf_counter() - start
        self.loading = 0.0  # the first recording's
        return sounds, report.values(job, self.model_name, facts, seconds)

    def _extras(self) -> list[Path]:
        """What is written beside the results of one recording."""
        options, first = self.options, self.settings.seed
        found = [Path(one) for one in (options.metrics_json, options.spectrogram) if one]
        if options.keep_candidates:
            seeds = range(first, first + self.settings.rounds[-1])
            found += [path for seed in seeds for path in self.kept(seed)]
        return found

    def kept(self, seed: int) -> list[Path]:
        """Where a candidate is kept."""
        folder = Path(self.options.keep_candidates)
        return [folder / f"{seed}.{stem}.wav" for stem in ("target", "residual")]

    def _pictures(self, job: Job) -> list[MaskedVideo | None]:
        """What is shown of each prompt; pictures without any mark show the only one."""
        video, source = self.options.video, job.source.path
        marked = [bool(prompt.box or prompt.mask) for prompt in job.prompts]
        return [
            prompt.video(video, source) if shown or not any(marked) else None
            for prompt, shown in zip(job.prompts, marked, strict=True)
        ]

    def fingerprint(self, job: Job) -> str:
        """Of all that decides what is written."""
        prompts = [
            (prompt.description, prompt.spans, checkpoint.fingerprint(shown))
            for prompt, shown in zip(job.prompts, self._pictures(job), strict=True)
        ]
        results = [(output.result, output.path.suffix.lower()) for output in job.outputs]
        written = results, self.options.bits, self.rate
        source, given = sha256(existing(job.source.path)), self._given(self.settings_for(job))
        return digest(source, self.model.fingerprint(), given, prompts, written)

    def agreed(self, jobs: Sequence[Job]) -> dict[str, str]:
        """All that must be the same where several processes make the jobs, by name."""
        recordings = [(str(job.source), job.size, job.prompts, job.outputs) for job in jobs]
        return {
            "version": __version__,
            "version of MLX": mx.__version__,
            "model": self.model.fingerprint(),
            "settings": digest(self._given(self.settings), self.options.bits, self.rate),
            "recordings": digest(recordings),
        }

    def _given(self, settings: Settings) -> list[tuple[str, object]]:
        """All that the options say of a separation, but for what only this machine is asked."""
        given = {one.name: getattr(settings, one.name) for one in fields(Settings)}
        given.pop("max_memory")
        if settings.predict_spans:
            options = self.options
            given["predict_spans"] = [
                options.span_model, options.span_threshold, options.span_gap, options.span_smallest
            ]  # fmt: skip
        return sorted(given.items())


def told_rate(text: str | None) -> int | str | None:
    """--rate: hertz, "input", or None."""
    if text in (None, INPUT):
        return text
    if not text.isdecimal() or int(text) not in RATES:
        raise SAMAudioError(
            f"--rate {text}: give {RATES[0]} to {RATES[-1]} Hz, or {INPUT} for the recording's"
        )
    return int(text)
