"""How many tokens of an encoded T5 prompt are real: the host's conditioning does not tell, so ours carries it."""
from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..dataset.keys import hash_tensor
from .text_padding import is_int

logger = logging.getLogger(__name__)
T5_END_TOKEN = 1
TOKENS_KEY = "masked_lora_text_tokens"
Row = list[Any]  # (token id or embedding, weight) for each token, as the host's tokenizers give it


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTokens:
    """`real` tokens, the end token with them, of the `encoded` ones that T5 read. `content` is the hash of the embeddings that this
    was written beside: nodes that mix or lengthen conditioning copy what it carries, and then it is no longer true.
    """

    real: int
    encoded: int
    content: str = ""

    def __post_init__(self) -> None:
        if not (is_int(self.real) and is_int(self.encoded) and 1 <= self.real <= self.encoded):
            raise ValueError(f"a prompt of {self.encoded!r} tokens cannot have {self.real!r} real ones; encode it again")

    def beside(self, cond_BTD: Tensor) -> dict[str, str]:
        """What the conditioning of these embeddings carries."""
        values = asdict(self) | {"content": hash_tensor(cond_BTD)}
        return {TOKENS_KEY: json.dumps(values, sort_keys=True)}


def carried_tokens(cond_BTD: Tensor, extra: dict[str, Any]) -> TextTokens | None:
    """None where nothing is carried, or the embeddings are no longer those it was written for."""
    if TOKENS_KEY not in extra:
        return None
    tokens = TextTokens(**json.loads(extra[TOKENS_KEY]))
    return tokens if tokens.content == hash_tensor(cond_BTD) else None


def row_end(row: Row) -> int:
    """Entries up to and with T5's end token. Embeddings stand in the row as tensors, one a token."""
    for i, entry in enumerate(row):
        if is_int(entry[0]) and entry[0] == T5_END_TOKEN:
            return i + 1
    return len(row)


def real_token_count(row: Row, width: int) -> int:
    """Without embeddings that are not `width` wide, as those of CLIP-L: the host leaves them out and adds padding at the end."""
    end = row_end(row)
    return end - sum(isinstance(entry[0], Tensor) and entry[0].shape[-1] != width for entry in row[:end])


def cut_tokens(row: Row, limit: int) -> Row:
    """At most `limit` tokens with the end token last, as Hugging Face tokenizers truncate."""
    end = row_end(row)
    if end > limit:
        logger.warning("Masked LoRA: the prompt has %d T5 tokens and the padding mode keeps %d; the end of it is not read", end, limit)
        return [*row[:limit - 1], row[end - 1]]
    return row[:limit]
