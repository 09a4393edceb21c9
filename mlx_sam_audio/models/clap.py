"""CLAP: a sound and a text as vectors of unit length in one space.

Follows LAION-AI/CLAP (clap_module/model.py). B batch, T samples, L tokens, D a tower's width,
J joint width.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .config import Dtype, Stored, Width
from .htsat import HTSAT, HTSATConfig
from .roberta import Roberta, RobertaConfig


@dataclass(frozen=True)
class ClapConfig(Stored):
    audio: HTSATConfig
    text: RobertaConfig
    joint_dim: Width  # of the space in which sounds meet texts
    dtype: Dtype

    model_type = "clap"
    format = 2


class Projection(nn.Module):
    """(B, D) -> (B, J) float32 of length one."""

    def __init__(self, dim: int, joint_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, joint_dim)
        self.fc2 = nn.Linear(joint_dim, joint_dim)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.fc2(nn.relu(self.fc1(x))).astype(mx.float32)
        return x / mx.linalg.norm(x, axis=-1, keepdims=True)


class ClapNetwork(nn.Module):
    def __init__(self, config: ClapConfig):
        super().__init__()
        width = config.audio.dim * 2 ** (len(config.audio.depths) - 1)
        self.audio_branch = HTSAT(config.audio)
        self.audio_projection = Projection(width, config.joint_dim)
        self.text_branch = Roberta(config.text)
        self.text_projection = Projection(config.text.dim, config.joint_dim)

    def embed_audio(self, clips: mx.array) -> mx.array:
        """(B, T) float32 -> (B, J)."""
        return self.audio_projection(self.audio_branch(clips))

    def embed_text(self, tokens: mx.array, mask: mx.array) -> mx.array:
        """Token ids and mask (B, L) -> (B, J)."""
        return self.text_projection(self.text_branch(tokens, mask))
