"""The reference from the folder where its sources lie, without all that it imports.

Its networks need PyTorch, transformers and einops. Packages that it only imports are stand-ins, and
its own packages' __init__.py, which import everything, are not run.
"""

import sys
from pathlib import Path
from types import ModuleType

PACKAGES = ("sam_audio", "sam_audio.model", "dacvae", "dacvae.model", "dacvae.nn")
ONLY_IMPORTED = (
    "audiotools",
    "audiotools.ml",
    "core",
    "core.audio_visual_encoder",
    "core.audio_visual_encoder.config",
)


class StandIn(ModuleType):
    """Has a class of any name, which does nothing."""

    def __getattr__(self, name: str) -> type:
        import torch

        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (torch.nn.Module,), {})


def find(folder: Path) -> None:
    """Lets `sam_audio.model.codec` and the like be imported from folder/sam-audio, folder/dacvae or
    any others in `folder`."""
    for name in ONLY_IMPORTED:
        sys.modules[name] = StandIn(name)
    for name in PACKAGES:
        package = ModuleType(name)
        path = name.replace(".", "/")
        package.__path__ = [str(p) for p in (*folder.glob(path), *folder.glob(f"*/{path}"))]
        if not package.__path__:
            raise SystemExit(f"error: {folder} holds no {path}")
        sys.modules[name] = package
    from dacvae.model.dacvae import DACVAE

    sys.modules["dacvae"].DACVAE = DACVAE
