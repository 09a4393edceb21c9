"""ModernBERT, the text encoder of the span predictor and the judge.

Follows transformers `models/modernbert/modeling_modernbert.py`, up to the layer whose output is
read: the layers after it and the final norm do not exist here. Most layers see a few tokens to
either side; every third sees the whole prompt. B batch, L tokens, D width, H heads.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .config import (
    Epsilon,
    Heads,
    Layers,
    Theta,
    Token,
    Tokens,
    Vocabulary,
    Width,
    heads_do_not_fit,
)
from .layers import attend_lean, rotary_table, rotate
from .schema import Wrong


@dataclass(frozen=True)
class ModernBertConfig:
    vocab_size: Vocabulary
    dim: Width
    n_heads: Heads
    n_layers: Layers  # those that are used: the tower may have more
    ffn_dim: Width
    eps: Epsilon
    global_every: Layers  # layer i sees the whole prompt if i is a multiple of this
    window: Token  # how many tokens to either side the other layers see
    global_theta: Theta
    local_theta: Theta
    pad_token: Token
    max_tokens: Tokens

    def wrong(self) -> Wrong:
        return {
            **heads_do_not_fit(self.dim, self.n_heads, 2),
            "pad_token is not in the vocabulary": self.pad_token >= self.vocab_size,
        }


class Embeddings(nn.Module):
    def __init__(self, config: ModernBertConfig):
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.norm = nn.LayerNorm(config.dim, config.eps, bias=False)

    def __call__(self, tokens: mx.array) -> mx.array:
        """Token ids (B, L) -> (B, L, D)."""
        return self.norm(self.tok_embeddings(tokens))


class Attention(nn.Module):
    def __init__(self, config: ModernBertConfig):
        super().__init__()
        self.Wqkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.Wo = nn.Linear(config.dim, config.dim, bias=False)
        self._shape = (config.n_heads, config.dim // config.n_heads)

    def __call__(self, x: mx.array, rotary, mask: mx.array) -> mx.array:
        """(B, L, D) -> the same; mask (B, L, L), True where a query (row) sees a key (column)."""
        qkv = self.Wqkv(x).reshape(*x.shape[:2], 3, *self._shape)
        q, k, v = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        return self.Wo(attend_lean(q, k, v, mask[:, None]))


class MLP(nn.Module):
    def __init__(self, config: ModernBertConfig):
        super().__init__()
        self.Wi = nn.Linear(config.dim, 2 * config.ffn_dim, bias=False)
        self.Wo = nn.Linear(config.ffn_dim, config.dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        value, gate = mx.split(self.Wi(x), 2, axis=-1)
        return self.Wo(nn.gelu(value) * gate)


class Layer(nn.Module):
    def __init__(self, config: ModernBertConfig, first: bool):
        super().__init__()
        # the embeddings were normalised just before the first layer
        norm = nn.LayerNorm(config.dim, config.eps, bias=False)
        self.attn_norm = nn.Identity() if first else norm
        self.attn = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.dim, config.eps, bias=False)
        self.mlp = MLP(config)

    def __call__(self, x: mx.array, rotary, mask: mx.array) -> mx.array:
        x = x + self.attn(self.attn_norm(x), rotary, mask)
        return x + self.mlp(self.mlp_norm(x))


class ModernBert(nn.Module):
    def __init__(self, config: ModernBertConfig):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = [Layer(config, i == 0) for i in range(config.n_layers)]
        self._config = config

    def __call__(self, tokens: mx.array, mask: mx.array) -> mx.array:
        """Ids and mask (B, L), True on tokens -> the last layer's output (B, L, D), not normed."""
        config, length = self._config, tokens.shape[1]
        position = mx.arange(length)
        distance = mx.abs(position[:, None] - position)
        # every token sees itself, or a row of padding would have nothing to attend to
        whole = mask[:, None, :] | (distance == 0)
        near = whole & (distance <= config.window)
        head_dim = config.dim // config.n_heads
        whole = rotary_table(length, head_dim, config.global_theta), whole
        near = rotary_table(length, head_dim, config.local_theta), near
        x = self.embeddings(tokens)
        for i, layer in enumerate(self.layers):
            x = layer(x, *(near if i % config.global_every else whole))
        return x
