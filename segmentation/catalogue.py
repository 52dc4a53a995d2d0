"""Models that people use to segment: where to get them, where they belong, and on what terms."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["sapiens", "face parsing", "sam", "detector", "clipseg"]


@dataclass(frozen=True, slots=True)
class Licence:
    """limits: in one sentence what the licence forbids or asks, as a person who trains a LoRA must know it; empty for none."""

    name: str
    link: str
    limits: str = ""


APACHE = Licence("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
MIT = Licence("MIT", "https://opensource.org/license/mit")


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model on the Hugging Face hub.

    name: as in a node's dropdown. files: patterns of the files that are needed. key: ComfyUI's name of the folder that it belongs in.
    place: below that folder, a directory, or a file name where `files` is one file.
    """

    name: str
    family: Family
    repo: str
    files: tuple[str, ...]
    key: str
    place: str
    licence: Licence

    @property
    def link(self) -> str:
        return f"https://huggingface.co/{self.repo}"
