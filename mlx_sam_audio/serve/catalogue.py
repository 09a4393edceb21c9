"""The models that clients may name: those of the local store, and the demo."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import mlx.core as mx

from ..command import choice
from ..errors import SAMAudioError
from ..files import sha256
from ..loading import manifest
from ..loading.store import DEMO, local, models, nearest
from ..loading.strict_json import read_json
from ..model import SAMAudio
from ..models import cpu
from ..models.pe_a_frame import SpanPredictorConfig
from ..models.quantise import quantise
from ..models.sam_audio import ModelConfig, Network
from ..models.vision import VisionEncoder
from ..settings import LONG, digest
from ..span_predictor import NAME
from .refusal import Refusal


class Plan(SAMAudio):
    """A model without weights: it checks and plans a run as the model itself does, in no time."""

    @cached_property
    def vision(self) -> VisionEncoder:
        if self.config.vision is None:
            raise SAMAudioError("this model takes text and spans only: it has no vision encoder")
        return VisionEncoder(self.config.vision)


@dataclass(frozen=True)
class Installed:
    """A model that is there."""

    id: str
    folder: Path
    config: ModelConfig

    @cached_property
    def bytes(self) -> int:
        return choice.weight_bytes(self.folder)

    @cached_property
    def plan(self) -> Plan:
        network = Network(self.config)
        if self.config.quantisation:
            quantise(network, self.config.quantisation)
        if not cpu.used():  # as weights are loaded
            network.set_dtype(getattr(mx, self.config.dtype))
        return Plan(self.config, network, None)

    @property
    def predicts(self) -> bool:
        """Whether there is a span predictor that reads its latents."""
        folder = local(NAME)
        if folder is None:
            return False
        try:
            values = read_json(folder / "config.json")
            found = SpanPredictorConfig.from_dict(values, folder)
        except SAMAudioError:
            return False
        rates = self.config.codec.sample_rate, self.config.codec.hop_length
        return (found.sample_rate, found.hop_length) == rates

    def view(self, limit: int | None) -> dict:
        """What clients are told. limit: bytes of memory."""
        config = self.config
        return {
            "id": self.id,
            "object": "model",
            "owned_by": "mlx-sam-audio",
            "bytes": self.bytes,
            "dtype": config.dtype,
            "sample_rate": config.codec.sample_rate,
            "vision": config.vision is not None,
            "missing": list(config.missing),
            "fits": choice.fits(config, self.bytes, LONG, limit),
            "bundled": self.folder == DEMO,
            "sounds": list(config.vocabulary.sounds) if config.vocabulary else None,
            "spans": self.predicts,
        }


class Catalogue:
    """Installed models by id, as the store has them now."""

    def __init__(self, default: str | None, limit: int | None):
        self._limit, self._known = limit, {}
        self.default = self.find(default).id if default else self._largest()

    def all(self) -> list[Installed]:
        found = {**{folder.name: folder for folder in models()}, "demo": DEMO}
        return [one for id, folder in found.items() if (one := self._read(id, folder))]

    def _read(self, id: str, folder: Path) -> Installed | None:
        """The model in a folder, if it is one that separates. Read again when it was changed."""
        try:
            stamp = (folder / "config.json").stat().st_mtime_ns
            if self._known.get(id, (None, None))[0] != stamp:
                values = read_json(folder / "config.json")
                if values.get("model_type") != ModelConfig.model_type:
                    return None
                one = Installed(id, folder, ModelConfig.from_dict(values, folder / "config.json"))
                one.bytes  # noqa: B018 - its manifest can be read
                self._known[id] = stamp, one
        except (OSError, SAMAudioError):
            return None
        return self._known[id][1]

    def find(self, id: object) -> Installed:
        found = {one.id: one for one in self.all()}
        if id is None:
            id = self.default
        if not isinstance(id, str) or id not in found:
            hint = nearest(str(id), list(found)) or f": there are {', '.join(found)}"
            text = f"the model {str(id)[:100]!r} is not installed on this server{hint}"
            raise Refusal(404, "no_model", text, "model")
        return found[id]

    def identity(self, request: dict) -> str:
        """Of the files of all models that a job needs, or may need."""
        folders = [self.find(request["model"]).folder]
        if request["kind"] == "spans" or request["predict_spans"] or request["candidates"] != 1:
            separators = {one.folder for one in self.all()}
            folders += [folder for folder in models() if folder not in separators]
        paths = [folder / manifest.NAME for folder in folders]
        return digest(*(sha256(path) for path in paths if path.is_file()))

    def _largest(self) -> str:
        """Of those that fit, as the command chooses; the demo, if there is no other."""
        fit = [one for one in self.all() if choice.fits(one.config, one.bytes, LONG, self._limit)]
        own = [one for one in fit if one.folder != DEMO]
        return max(own, key=lambda one: one.bytes).id if own else "demo"

    def view(self) -> dict:
        rows = [one.view(self._limit) for one in self.all()]
        return {"object": "list", "default": self.default, "data": rows}
