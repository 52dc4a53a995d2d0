"""Which tokens of a padded T5 prompt the diffusion model reads, and how: one specification for training and sampling."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

MAX_LENGTH = 4096  # a file from a stranger must not ask for a prompt of millions of tokens


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPadding:
    """`max_length` tokens are encoded (None = the host's own minimum; longer prompts are cut to it when it is a number);
    padding embeddings are kept or set to zero; the model attends all tokens, or the real ones and `keep_pads` pads;
    `encoder_masked` hides the padding from the text encoder itself.
    """

    max_length: int | None = None
    pad_embedding: Literal["encoded", "zero"] = "encoded"
    attend: Literal["all", "real"] = "all"
    keep_pads: int = 0
    encoder_masked: bool = False

    def __post_init__(self) -> None:
        if self.max_length is not None and (not is_int(self.max_length) or not 2 <= self.max_length <= MAX_LENGTH):
            raise ValueError(f"max_length must be a whole number of tokens from 2 (a word and the end token) to {MAX_LENGTH}, "
                             f"got {self.max_length!r}")
        if self.pad_embedding not in ("encoded", "zero"):
            raise ValueError(f"pad_embedding must be 'encoded' or 'zero', got {self.pad_embedding!r}")
        if self.attend not in ("all", "real"):
            raise ValueError(f"attend must be 'all' or 'real', got {self.attend!r}")
        if not is_int(self.keep_pads) or not 0 <= self.keep_pads <= MAX_LENGTH:
            raise ValueError(f"keep_pads must be a whole number and not negative, got {self.keep_pads!r}")
        if not isinstance(self.encoder_masked, bool):
            raise ValueError(f"encoder_masked must be true or false, got {self.encoder_masked!r}")

    @property
    def preset(self) -> str:
        """The name of the preset with these values, or 'custom'."""
        return next((name for name, spec in PRESETS.items() if spec == self), "custom")

    def describe(self) -> str:
        length = "the host's own length" if self.max_length is None else f"{self.max_length} tokens"
        pads = {"encoded": "padding as encoded", "zero": "padding embeddings set to zero"}[self.pad_embedding]
        attended = "all tokens attended" if self.attend == "all" else "padding masked" + (
            f" but for {self.keep_pads}" if self.keep_pads else "")
        return f"{self.preset}: {length}, {pads}, {attended}" + (", padding hidden from the encoder" if self.encoder_masked else "")

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TextPadding:
        """Raises ValueError for anything that is not a specification."""
        try:
            return cls(**json.loads(text))
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{text!r} is not a text padding specification: {error}") from error


PRESETS: dict[str, TextPadding] = {
    "comfyui": TextPadding(),
    "comfyui-zero": TextPadding(pad_embedding="zero"),
    "comfyui-mask": TextPadding(attend="real"),
    "none-512": TextPadding(max_length=512),
    "zero-512": TextPadding(max_length=512, pad_embedding="zero"),
    "zero-77": TextPadding(max_length=77, pad_embedding="zero"),
    "mask-512": TextPadding(max_length=512, attend="real"),
    "mask-512-encoder": TextPadding(max_length=512, attend="real", encoder_masked=True),
    "chroma": TextPadding(attend="real", keep_pads=1),
}
PRESET_HELP = (
    "comfyui: as ComfyUI encodes. comfyui-zero and comfyui-mask: the same length, padding zeroed or masked. "
    "none-512: BFL, diffusers, sd-scripts by default. zero-512: SimpleTuner t5_padding=zero, ai-toolkit attn_masking. "
    "zero-77: OneTrainer's attention mask at its default length. mask-512: padding masked in Flux. "
    "mask-512-encoder: sd-scripts apply_t5_attn_mask, FluxTrainer's default. chroma: Chroma's one visible pad."
)
