"""Whether LoRAs and prompts were made under the same text padding: what a model's LoRAs and the conditioning say of themselves."""
from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy_execution.utils import get_executing_context

from .lora_format import LoraWeights
from .lora_padding import TrainedPadding, trained_padding
from .progress import show_text
from .text import SPEC_KEY
from .text_padding import TextPadding

logger = logging.getLogger(__name__)
KEY = "masked_lora_text_padding"  # of the attachment and the wrapper on a ModelPatcher; its clones inherit both
NOT_TOLD = "not told"
REMEDY = "connect the padding of the LoRA's loader to Text Encode (padding mode)"


@dataclass(frozen=True, slots=True)
class AppliedLora:
    name: str
    trained: TrainedPadding


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a conditioning says: the padding of each of its entries, None where an entry does not tell."""

    name: str
    paddings: frozenset[TextPadding | None]

    def describe(self) -> str:
        words = sorted(NOT_TOLD if padding is None else padding.describe() for padding in self.paddings)
        return f"{self.name}: {' and '.join(words) or 'no entries'}"


def mark(patcher: ModelPatcher, lora: AppliedLora) -> None:
    """Let a clone that has just got this LoRA know it, and look at the prompts whenever it is sampled."""
    patcher.set_attachments(KEY, (*marks(patcher), lora))
    patcher.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)  # one look, however many LoRAs
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, warn_before_sampling)


def marks(patcher: ModelPatcher) -> tuple[AppliedLora, ...]:
    return patcher.get_attachment(KEY) or ()


def applied_loras(patcher: ModelPatcher) -> tuple[AppliedLora, ...]:
    """Those of our loaders, and the last one of ComfyUI's own loader, which leaves the metadata of no other."""
    metadata = patcher.get_attachment("lora_metadata")
    if not isinstance(metadata, dict):
        return marks(patcher)
    trained = trained_padding(LoraWeights({}, metadata), type(patcher.model).__name__)
    return (*marks(patcher), AppliedLora("the last LoRA of ComfyUI's own loader", trained))


def prompt_of(name: str, extras: Iterable[Mapping[str, Any]]) -> Prompt:
    """From the dicts of a conditioning, before or during sampling."""
    return Prompt(name, frozenset(padding_in(extra) for extra in extras))


def padding_in(extra: Mapping[str, Any]) -> TextPadding | None:
    try:
        return TextPadding.from_json(extra[SPEC_KEY]) if SPEC_KEY in extra else None
    except ValueError:
        return None


def problems(loras: Sequence[AppliedLora], prompts: Sequence[Prompt]) -> list[str]:
    """A sentence for each pair that does not fit. A LoRA whose padding is only assumed fits anything.

    A prompt that does not tell fits ComfyUI's own padding alone: that is what ComfyUI's Text Encode makes.
    """
    known = [lora for lora in loras if lora.trained.known != "assumed"]
    found = [f"{prompt.describe()}; but {lora.name} {verb(lora)} {lora.trained.padding.describe()}: {REMEDY}"
             for lora in known for prompt in prompts if misfit(prompt, lora.trained.padding)]
    found += [f"{a.name} {verb(a)} {a.trained.padding.describe()}; but {b.name} {verb(b)} {b.trained.padding.describe()}: no prompt fits "
              "both, take the padding of the one that matters more" for a, b in combinations(known, 2)
              if a.trained.padding != b.trained.padding]
    told = {padding or TextPadding() for prompt in prompts for padding in prompt.paddings}
    if len(told) > 1:
        found.append(f"{'; but '.join(p.describe() for p in prompts)}: encode them all with one padding")
    return found


def misfit(prompt: Prompt, padding: TextPadding) -> bool:
    return any((other or TextPadding()) != padding for other in prompt.paddings)


def verb(lora: AppliedLora) -> str:
    return "was trained with" if lora.trained.known == "stated" else "comes from a tool that usually trains with"


def report(loras: Sequence[AppliedLora], prompts: Sequence[Prompt], found: Sequence[str]) -> str:
    """All that is known, the verdict first."""
    if found:
        lines = [f"mismatch: {problem}" for problem in found]
    elif any(lora.trained.known != "assumed" for lora in loras):
        untold = any(None in prompt.paddings for prompt in prompts)
        lines = ["match: the prompts have the text padding of training"
                 + (", if those that do not tell are from ComfyUI's own Text Encode" if untold else "")]
    else:
        lines = ["nothing to compare: no LoRA on this model tells its text padding"]
    return "\n".join([*lines, *(f"{lora.name}: {lora.trained.sentence}" for lora in loras), *(p.describe() for p in prompts)])


def warn_before_sampling(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Any:
    """One warning for a whole sampling run, in the console and on the sampler's node; what is sampled is not touched."""
    guider = executor.class_obj
    loras, prompts = marks(guider.model_patcher), sampled_prompts(guider)
    if found := problems(loras, prompts):
        logger.warning("Masked LoRA: text padding differs: %s", "; ".join(found))
        context = get_executing_context()
        show_text(in_short(loras, prompts), context.node_id if context else None)
    proceed: Callable[..., Any] = executor
    return proceed(*args, **kwargs)


def in_short(loras: Sequence[AppliedLora], prompts: Sequence[Prompt]) -> str:
    """A line that fits on a sampler's node, with the names of presets."""
    here = sorted({NOT_TOLD if padding is None else padding.preset for prompt in prompts for padding in prompt.paddings})
    trained = sorted({lora.trained.padding.preset for lora in loras if lora.trained.known != "assumed"})
    return f"text padding differs: {', '.join(here)} here, {', '.join(trained) or NOT_TOLD} in training"


def sampled_prompts(guider: Any) -> list[Prompt]:
    """Of the conditionings that take part: at cfg 1 ComfyUI leaves the negative one out."""
    conds: Mapping[str, Sequence[Mapping[str, Any]]] = getattr(guider, "conds", {})
    alone = math.isclose(getattr(guider, "cfg", 0.0), 1.0) and not guider.model_options.get("disable_cfg1_optimization", False)
    return [prompt_of(name, cond) for name, cond in conds.items() if cond and not (alone and name == "negative" and "positive" in conds)]
