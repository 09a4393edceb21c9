"""From texts to the token ids that the text encoders read. B batch, L tokens."""

from pathlib import Path

import mlx.core as mx

from ..errors import SAMAudioError
from ..models.modernbert import ModernBertConfig
from ..models.roberta import RobertaConfig
from ..models.t5 import TextConfig

PAD, END = 0, 1  # T5's


class SentencePieceTokenizer:
    """SentencePiece, as T5 uses it: the pieces, then </s>; rows padded to the longest.

    lower: for a model that knows only lower-case words, where T5 tells "Bird" from "bird". Raises
    SAMAudioError.
    """

    def __init__(self, path: Path, config: TextConfig, lower: bool = False):
        import sentencepiece

        if not path.is_file():
            raise SAMAudioError(f"{path.parent} holds no {path.name}: convert the model again")
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError):
            raise SAMAudioError(f"{path} is not a SentencePiece model: convert again") from None
        count = self._pieces.get_piece_size()
        if count > config.vocab_size:
            raise SAMAudioError(
                f"{path} has {count} tokens, but the network only {config.vocab_size}: they do "
                "not belong together"
            )
        self._max_tokens, self._lower = config.max_tokens, lower

    def __call__(self, texts: list[str]) -> tuple[mx.array, mx.array]:
        """Token ids (B, L) int32 and the mask (B, L), True on tokens."""
        texts = [text.lower() for text in texts] if self._lower else texts
        rows = [ids[: self._max_tokens - 1] + [END] for ids in self._pieces.encode(texts)]
        longest = max(map(len, rows))
        tokens = mx.array([row + [PAD] * (longest - len(row)) for row in rows], dtype=mx.int32)
        lengths = mx.array([len(row) for row in rows])
        return tokens, mx.arange(longest) < lengths[:, None]


class JSONTokenizer:
    """A checkpoint's own tokenizer.json; rows padded to the longest.

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
