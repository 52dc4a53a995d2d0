"""What a run shows the model of captions, in words and for metadata."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..dataset.cache import CachedExample, ExampleRef
from ..dataset.words import counted

Outline = Sequence[CachedExample | ExampleRef]


def require_dropped(examples: Outline, rate: float) -> None:
    """Raises ValueError where captions are to be dropped and there is nothing to show in their place."""
    if rate and (lacking := [example.name for example in examples if not example.dropped]):
        raise ValueError(f"caption_dropout is {rate:g} and {counted(len(lacking), 'example')} of the training set, such as {lacking[0]}, "
                         "have no text for a dropped caption; connect Caption Options to Encode Training Set, or set caption_dropout to 0")


def caption_facts(examples: Outline, rate: float) -> dict[str, object]:
    """How many examples have each number of texts, and the dropout where there is one; empty where each has its caption alone."""
    facts: dict[str, object] = {}
    if any(example.alternatives for example in examples):
        facts["texts"] = {str(number): count for number, count in sorted(Counter(1 + len(e.alternatives) for e in examples).items())}
    if rate:
        facts |= {"dropout": rate, "dropped": dropped_texts(examples)}
    return facts


def dropped_texts(examples: Outline) -> list[str]:
    """Those that stand for dropped captions; of examples in memory the words are not known."""
    return list(dict.fromkeys(caption for example in examples if isinstance(example, ExampleRef) for caption, _, _ in example.dropped))


def captions_said(examples: Outline, rate: float) -> str:
    """For the start of a run."""
    most = max(1 + len(example.alternatives) for example in examples)
    said = f"up to {counted(most, 'text')} a picture, of which each draw shows one at random" if most > 1 else "one a picture"
    if not rate:
        return f"{said}, never dropped"
    instead = " or ".join(map(repr, dropped_texts(examples))) or "another text"
    return f"{said}; {100 * rate:g} % of draws, regularisation too, see {instead} instead"
