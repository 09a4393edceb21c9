"""The metrics, and what each of them needs."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.evaluation import metrics
from benchmarks.evaluation.metrics import Undefined
from mlx_sam_audio import MaskedVideo, SAMAudioError, Span
from mlx_sam_audio.media import audio
from mlx_sam_audio.ranking import activity, rank

DEFINITIONS = 1  # to be raised with any change of what a metric gives


@dataclass
class Heard:
    """An estimate beside the truth: at the metrics' rate, all float64 (C, T); and in mono at the
    model's rate, float32 (T,), for networks that listen."""

    rate: int
    mixture: np.ndarray
    estimate: np.ndarray
    rest: np.ndarray | None  # the estimate's residual
    target: np.ndarray | None
    residual: np.ndarray | None
    model_rate: int
    wave: np.ndarray  # the estimate's
    mixture_wave: np.ndarray
    description: str = ""
    spans: Sequence[Span] = ()
    video: MaskedVideo | None = None
    facts: dict = field(default_factory=dict)  # of the separation
    network: Callable[[str], Any] | None = None  # by the name of its group
    unknown: str = "the target is not known"

    @property
    def truth(self) -> np.ndarray:
        if self.target is None:
            raise Undefined(self.unknown)
        return self.target

    @cached_property
    def bss(self) -> tuple[float, float]:
        return metrics.si_sir_sar(self.estimate, self.truth, self.residual)

    def framewise(self) -> float:
        if self.rest is None:
            raise Undefined("there is one stem")
        estimates = np.stack([self.estimate, self.rest])
        return metrics.framewise_sdr(estimates, np.stack([self.truth, self.residual]), self.rate)

    def gain(self, metric: Callable, estimate: np.ndarray, source: np.ndarray) -> float:
        return metric(estimate, source) - metric(self.mixture, source)

    def of_rest(self) -> float:
        self.truth  # noqa: B018 - Undefined where there is none
        if self.rest is None:
            raise Undefined("there is one stem")
        return self.gain(metrics.si_sdr, self.rest, self.residual)

    def oracle(self) -> float:
        """The improvement of the best candidate, whichever the ranker chose."""
        if "oracle" not in self.facts:
            raise Undefined(self.unknown)
        return self.facts["oracle"]

    def silenced(self) -> float:
        if "silenced" not in self.facts:
            raise Undefined("it was not separated")
        return self.facts["silenced"]

    def active(self, metric: str) -> float:
        wanted = rank.wanted(self.spans)
        if not wanted:
            raise Undefined("there are no spans")
        return activity.agreement(self.wave, self.model_rate, wanted, metric=metric)

    @cached_property
    def judged(self) -> dict[str, float]:
        if not self.description:
            raise Undefined("there are no words")
        judge = self.network("judge")
        waves = np.stack([self.mixture_wave, self.wave])
        mixture, wave = audio.resample(waves, self.model_rate, judge.sample_rate)
        return asdict(judge(mixture, wave[None], self.description)[0])

    def clap(self) -> float:
        if not self.description:
            raise Undefined("there are no words")
        return self.network("clap")(self.wave[None], self.description, self.model_rate)[0]

    def imagebind(self) -> float:
        if self.video is None:
            raise Undefined("there is no video")
        return self.network("imagebind")(self.wave[None], self.model_rate, self.video)[0]

    @cached_property
    def aesthetics(self) -> dict[str, float]:
        return asdict(self.network("aesthetics")(self.wave[None], self.model_rate)[0])


@dataclass(frozen=True)
class Metric:
    """better: 1 if more of it is, -1 if less, 0 if neither."""

    title: str
    unit: str
    better: int
    group: str  # under which it is asked for
    of: Callable[[Heard], Any]


def truth(title: str, of: Callable[[Heard], float], better: int = 1) -> Metric:
    return Metric(title, "dB", better, "truth", of)


METRICS = {
    "sdr": truth("SDR", lambda h: metrics.sdr(h.estimate, h.truth)),
    "sdri": truth("SDR improvement", lambda h: h.gain(metrics.sdr, h.estimate, h.truth)),
    "si_sdr": truth("SI-SDR", lambda h: metrics.si_sdr(h.estimate, h.truth)),
    "si_sdri": truth("SI-SDR improvement", lambda h: h.gain(metrics.si_sdr, h.estimate, h.truth)),
    "si_sir": truth("SI-SIR", lambda h: h.bss[0]),
    "si_sar": truth("SI-SAR", lambda h: h.bss[1]),
    "museval_sdr": truth("SDR by second (museval)", Heard.framewise),
    "residual_si_sdri": truth("residual's SI-SDR improvement", Heard.of_rest),
    "oracle_si_sdri": truth("best candidate's SI-SDR improvement", Heard.oracle),
    "under": Metric(
        "target under mixture", "dB", 0, "level", lambda h: metrics.under(h.estimate, h.mixture)
    ),
    "silenced": Metric("share of time judged absent", "", 0, "level", Heard.silenced),
    **{
        f"activity_{name}": Metric(
            f"activity, {title}", "", 1, "activity", lambda h, name=name: h.active(name)
        )
        for name, title in dict(iou="IoU", recall="recall", precision="precision").items()
    },
    **{
        f"judge_{name}": Metric(
            f"judge, {name}", "", 1, "judge", lambda h, name=name: h.judged[name]
        )
        for name in ("overall", "recall", "precision", "faithfulness")
    },
    "clap": Metric("CLAP", "", 1, "clap", Heard.clap),
    "imagebind": Metric("ImageBind", "", 1, "imagebind", Heard.imagebind),
    **{
        f"aes_{name}": Metric(
            f"aesthetics, {name}", "", better, "aesthetics", lambda h, n=name: h.aesthetics[n]
        )
        for name, better in dict(enjoyment=1, usefulness=1, complexity=0, quality=1).items()
    },
}
GROUPS = tuple(dict.fromkeys(metric.group for metric in METRICS.values()))
NETWORKS = {  # groups that need one
    "judge": "judge.Judge",
    "clap": "clap.CLAP",
    "imagebind": "imagebind.ImageBind",
    "aesthetics": "aesthetics.Aesthetics",
}
FREE = tuple(group for group in GROUPS if group not in NETWORKS)


def named(groups: Sequence[str]) -> list[str]:
    return [name for name, metric in METRICS.items() if metric.group in groups]


def loaded(group: str, place: str | None = None) -> Any:
    """The network of a group, from the local store or another place. Raises SAMAudioError."""
    module, name = NETWORKS[group].split(".")
    kind = getattr(importlib.import_module(f"mlx_sam_audio.ranking.{module}"), name)
    return kind.from_pretrained(place or group)


def score(heard: Heard, names: Sequence[str]) -> tuple[dict[str, float | None], dict[str, str]]:
    """The metrics, None where one is undefined; and why that is."""
    scores, why = {}, {}
    for name in names:
        scores[name], reason = value(heard, name)
        if reason:
            why[name] = reason
    return scores, why


def value(heard: Heard, name: str) -> tuple[float | None, str | None]:
    try:
        return float(METRICS[name].of(heard)), None
    except (Undefined, SAMAudioError) as error:
        return None, str(error)


def at(waves: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """(C, T) at `rate` -> at the wanted one, float64."""
    return audio.resample(waves.astype(np.float64), rate, wanted)
