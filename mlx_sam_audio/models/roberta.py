"""RoBERTa, CLAP's text tower.

Follows transformers `models/roberta/modeling_roberta.py`. Norms come after the sums; positions
count from the padding token's number on. B batch, L tokens, D width.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from .config import (
    Epsilon,
    Heads,
    Layers,
    Positions,
    Token,
    Tokens,
    Vocabulary,
    Width,
    heads_do_not_fit,
)
from .layers import attend_lean, split_heads
from .schema import Wrong


@dataclass(frozen=True)
class RobertaConfig:
    vocab_size: Vocabulary
    dim: Width
    n_heads: Heads
    n_layers: Layers
    ffn_dim: Width
    eps: Epsilon
    max_positions: Positions  # the two that no token has included
    pad_token: Token
    max_tokens: Tokens

    def wrong(self) -> Wrong:
        last = self.pad_token + self.max_tokens
        return {
            **heads_do_not_fit(self.dim, self.n_heads),
            "pad_token is not in the vocabulary": self.pad_token >= self.vocab_size,
            "max_tokens are more than max_positions": last >= self.max_positions,
        }


class Embeddings(nn.Module):
    def __init__(self, config: RobertaConfig):
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.dim)
        self.positions = nn.Embedding(config.max_positions, config.dim)
        self.types = nn.Embedding(1, config.dim)  # of one type of token
        self.norm = nn.LayerNorm(config.dim, config.eps)
        self._pad = config.pad_token

    def __call__(self, tokens: mx.array) -> mx.array:
        """Token ids (B, L), padded on the right -> (B, L, D)."""
        positions = mx.arange(tokens.shape[1]) + self._pad + 1
        return self.norm(self.words(tokens) + self.positions(positions) + self.types.weight[0])


class Layer(nn.Module):
    def __init__(self, config: RobertaConfig):
        super().__init__()
        self.query = nn.Linear(config.dim, config.dim)
        self.key = nn.Linear(config.dim, config.dim)
        self.value = nn.Linear(config.dim, config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.attention_norm = nn.LayerNorm(config.dim, config.eps)
        self.fc1 = nn.Linear(config.dim, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.dim)
        self.norm = nn.LayerNorm(config.dim, config.eps)
        self._n_heads = config.n_heads

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        """(B, L, D) -> the same; mask (B, 1, 1, L), True on tokens."""
        x = self.attention_norm(x + self.attention(x, mask))
        return self.norm(x + self.fc2(nn.gelu(self.fc1(x))))

    def attention(self, x: mx.array, mask: mx.array) -> mx.array:
        q, k, v = (
            split_heads(layer(x), self._n_heads) for layer in (self.query, self.key, self.value)
        )
        return self.out(attend_lean(q, k, v, mask))


class Roberta(nn.Module):
    def __init__(self, config: RobertaConfig):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = [Layer(config) for _ in range(config.n_layers)]
        self.pooler = nn.Linear(config.dim, config.dim)

    def __call__(self, tokens: mx.array, mask: mx.array) -> mx.array:
        """Token ids and mask (B, L), True on tokens -> (B, D), made of the first token."""
        x = self.embeddings(tokens)
        for layer in self.layers:
            x = layer(x, mask[:, None, None])
        return mx.tanh(self.pooler(x[:, 0]))
