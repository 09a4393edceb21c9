"""ModernBERT, the text encoder of the span predictor and the judge, and its tokenizer.

Follows transformers `models/modernbert/modeling_modernbert.py`, up to the layer whose output is
read: the layers after it and the final norm do not exist here. Most layers see a few tokens to
either side; every third sees the whole prompt. B batch, L tokens, D width, H heads.
"""

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from ..errors import SAMAudioError
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
from .roberta import RobertaConfig
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


class Tokenizer:
    """The checkpoint's own tokenizer.json, CLAP's too; rows padded to the longest.

    Raises SAMAudioError.
    """

    def __init__(self, path: Path, config: ModernBertConfig | RobertaConfig):
        try:
            import tokenizers
        except ImportError:
            raise SAMAudioError(
                "reading this model's prompts needs `pip install 'mlx-sam-audio[rank]'`"
            ) from None
        if not path.is_file():
            raise SAMAudioError(f"{path.parent} holds no {path.name}: convert the model again")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 -- the library raises nothing narrower
            raise SAMAudioError(f"{path} is not a tokenizer ({error}): convert again") from None
        # what is put around a text need not be in the vocabulary
        around = self._tokenizer.encode("").ids
        largest = max([*self._tokenizer.get_vocab().values(), *around], default=0)
        if largest >= config.vocab_size:
            raise SAMAudioError(
                f"{path} has a token {largest}, but the network only {config.vocab_size}: they do "
                "not belong together"
            )
        if len(around) != 2:
            raise SAMAudioError(
                f"{path} puts {len(around)} marks around a text, where the network wants two: "
                "convert it again"
            )
        self._tokenizer.enable_truncation(config.max_tokens)
        self._tokenizer.enable_padding(pad_id=config.pad_token)

    def __call__(self, texts: list[str]) -> tuple[mx.array, mx.array]:
        """Token ids (B, L) int32 and the mask (B, L), True on tokens."""
        rows = self._tokenizer.encode_batch(texts)
        tokens = mx.array([row.ids for row in rows], dtype=mx.int32)
        return tokens, mx.array([row.attention_mask for row in rows]) > 0


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
