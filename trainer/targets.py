"""Which layers an adapter goes on: presets, blocks by their numbers, and what that comes to in a network."""
from __future__ import annotations

import re
from collections import Counter

from torch import nn

from .config import BLOCK_LAYERS
from .linear import is_linear

# Attention by the word, and the layers of Flux' single blocks, which are attention and feed-forward in one.
ATTENTION = r"(?=.*(attn|attention|single_blocks\.\d+\.linear\d))" + BLOCK_LAYERS
OWN = "own regular expression"
PRESETS = {
    "attention and feed-forward of the blocks": BLOCK_LAYERS,
    "attention of the blocks": ATTENTION,
    "all linear layers": r".*",
}
BLOCKS = re.compile(r"\s*(?P<list>[A-Za-z]\w*)?\s*(?P<first>\d+)\s*(-\s*(?P<last>\d+))?\s*")


def targets(preset: str, blocks: str = "", pattern: str = "") -> str:
    """A regular expression for full layer names. `blocks`: see `block_pattern`. `pattern` counts for the preset OWN alone."""
    if preset != OWN and preset not in PRESETS:
        raise ValueError(f"layers are {preset!r}; choose one of {', '.join([*PRESETS, OWN])}")
    if preset == OWN and not pattern.strip():
        raise ValueError(f"layers are '{OWN}' and there is none; write one, such as '.*attn.*'")
    layers = pattern.strip() if preset == OWN else PRESETS[preset]
    return f"{block_pattern(blocks)}(?:{layers})"


def block_pattern(blocks: str) -> str:
    """A condition for numbered blocks: '0-5, 18', or with the beginning of their list's name 'double 0-5, single 18, 20'.

    The number is the first in a layer's name. A list's name holds for the numbers behind it up to the next name. '' is no condition.
    """
    if not blocks.strip():
        return ""
    start, choices = "", []
    for part in blocks.split(","):
        found = BLOCKS.fullmatch(part)
        if not found:
            raise ValueError(f"blocks are {blocks!r}, and {part.strip()!r} is no number or range; "
                             "write '0-5, 18' or 'double 0-5, single 18'")
        start = found["list"] or start
        first, last = int(found["first"]), int(found["last"] or found["first"])
        if last < first:
            raise ValueError(f"blocks {part.strip()!r} run backwards; write the smaller number first")
        numbers = "|".join(map(str, range(first, last + 1)))
        choices.append(rf"(?:[A-Za-z_]\w*\.)*?{start or '[A-Za-z_]'}\w*\.(?:{numbers})\.")
    return f"(?={'|'.join(choices)})"


def find_layers(network: nn.Module, pattern: str) -> list[str]:
    """Names of the linear layers that match. Raises ValueError that names some layers where none does."""
    layers = [name for name, module in network.named_modules() if is_linear(module)]
    if found := [name for name in layers if re.fullmatch(pattern, name)]:
        return found
    some = ", ".join(layers[i] for i in range(0, len(layers), max(1, len(layers) // 6))) or "none"
    raise ValueError(f"no linear layer of {type(network).__name__} matches {pattern!r}; loosen the LoRA's targets. "
                     f"Some of its {len(layers)} linear layers: {some}")


def describe(network: nn.Module, pattern: str) -> str:
    """Such as 'on 24 of 36 linear layers: 20 in double_blocks, 4 in single_blocks'. Raises ValueError where none matches."""
    found = find_layers(network, pattern)
    count = sum(map(is_linear, network.modules()))
    lists = Counter(name.split(".")[0] for name in found)
    return f"on {len(found)} of {count} linear layers: " + ", ".join(f"{n} in {part}" for part, n in lists.items())
