"""Models that people use to segment: where to get them, where they belong, and on what terms."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Family = Literal["sapiens", "face parsing", "sam", "detector", "clipseg"]


@dataclass(frozen=True, slots=True)
class Licence:
    """limits: in one sentence what the licence forbids or asks, as a person who trains a LoRA must know it; empty for none."""

    name: str
    link: str
    limits: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder where models of a family lie.

    key: ComfyUI's name of the folder, as in extra_model_paths.yaml. default: the folder below models/ that packs use for it.
    files: whether single files of weights are models there; directories with a config.json always are.
    """

    key: str
    default: str
    files: bool = False


WITH_THEM = ("*.json", "*.txt", "LICENSE*")
"""Small files beside a folder's weights: settings, vocabularies, the licence's text."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model on the Hugging Face hub.

    name: as in a node's dropdown. files: patterns of the files that it cannot do without, none in a sub-folder. key: ComfyUI's name of
    the folder that it belongs in. place: below that folder, a directory, or a file name where that is the only one of `files`.
    gigabytes: to download; None where nobody said. gated: whether the hub wants an account that was granted access.
    """

    name: str
    family: Family
    repo: str
    files: tuple[str, ...]
    key: str
    place: str
    licence: Licence
    gigabytes: float | None = None
    gated: bool = False

    @property
    def link(self) -> str:
        return f"https://huggingface.co/{self.repo}"

    @property
    def is_file(self) -> bool:
        return self.files == (self.place,)

    @property
    def patterns(self) -> tuple[str, ...]:
        """All that is worth having: `files`, and what belongs to them where they make a folder."""
        return self.files if self.is_file else (*self.files, *WITH_THEM)


APACHE = Licence("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
MIT = Licence("MIT", "https://opensource.org/license/mit")
SAPIENS1 = Licence(
    "CC BY-NC 4.0", "https://creativecommons.org/licenses/by-nc/4.0/",
    "Non-commercial use only: not for masks of a LoRA that is sold or made for a client.")
SAPIENS2 = Licence(
    "Sapiens2 License", "https://github.com/facebookresearch/sapiens2/blob/main/LICENSE.md",
    "Forbids surveillance, biometric processing, deepfakes and impersonating any individual, pornographic and defamatory use, inferring "
    "health or demographic data without consent, military and weapons uses; Meta may audit the use.")
SAM3 = Licence(
    "SAM License", "https://github.com/facebookresearch/sam3/blob/main/LICENSE",
    "Commercial use is allowed; military, nuclear, spying and weapons uses are not, and the licence goes with every copy.")
FACE_PARSING = Licence(
    "CC0 on the model's page", "https://huggingface.co/jonathandinu/face-parsing",
    "Treat it as non-commercial: its data (CelebAMask-HQ) and the network that it was tuned from (nvidia/mit-b5) are.")

CONFIGURED = ("config.json", "model*.safetensors")
"""A model that transformers loads, without the copies in other formats that lie beside it."""

PLACES: Mapping[Family, tuple[Place, ...]] = {
    "sapiens": (Place("sapiens", "sapiens", files=True), Place("sapiens2", "sapiens2", files=True)),
    "face parsing": (Place("face_parsing", "face_parsing"), Place("rmbg", "RMBG")),
    "sam": (Place("sams", "sams", files=True), Place("sam2", "sam2", files=True), Place("sam3", "sam3", files=True)),
    "detector": (Place("grounding-dino", "grounding-dino", files=True), Place("LLM", "LLM"), Place("florence2", "florence2")),
    "clipseg": (Place("clipseg", "clipseg"),),
}

MODEL_TYPES: Mapping[Family, tuple[str, ...]] = {
    "sapiens": ("sapiens2",),
    "face parsing": ("segformer",),
    "sam": ("sam", "sam2", "sam2_video", "sam3", "sam3_tracker", "sam3_video"),
    "detector": ("grounding-dino", "mm-grounding-dino", "florence2"),
    "clipseg": ("clipseg",),
}
"""What the config.json of a directory that can be loaded calls a model of the family."""


def _sapiens1(size: str, file: str, gigabytes: float) -> KnownModel:
    repo = f"facebook/sapiens-seg-{size}-torchscript"
    return KnownModel(f"sapiens {size}", "sapiens", repo, (file,), "sapiens", file, SAPIENS1, gigabytes)


def _sapiens2(size: str) -> KnownModel:
    file = f"sapiens2_{size}_seg.safetensors"
    return KnownModel(f"sapiens2 {size}", "sapiens", f"facebook/sapiens2-seg-{size}", (file,), "sapiens", file, SAPIENS2)


def _folder(name: str, family: Family, repo: str, key: str, licence: Licence, gigabytes: float | None = None, *,
            gated: bool = False) -> KnownModel:
    return KnownModel(name, family, repo, CONFIGURED, key, repo.partition("/")[2], licence, gigabytes, gated)


KNOWN: tuple[KnownModel, ...] = (
    _sapiens2("0.4b"),
    _sapiens2("0.8b"),
    _sapiens2("1b"),
    _sapiens1("0.3b", "sapiens_0.3b_goliath_best_goliath_mIoU_7673_epoch_194_torchscript.pt2", 1.36),
    _sapiens1("0.6b", "sapiens_0.6b_goliath_best_goliath_mIoU_7777_epoch_178_torchscript.pt2", 2.69),
    _sapiens1("1b", "sapiens_1b_goliath_best_goliath_mIoU_7994_epoch_151_torchscript.pt2", 4.72),
    _folder("face parsing", "face parsing", "jonathandinu/face-parsing", "face_parsing", FACE_PARSING, 0.34),
    _folder("sam2.1 tiny", "sam", "facebook/sam2.1-hiera-tiny", "sam2", APACHE, 0.16),
    _folder("sam2.1 small", "sam", "facebook/sam2.1-hiera-small", "sam2", APACHE, 0.18),
    _folder("sam2.1 base plus", "sam", "facebook/sam2.1-hiera-base-plus", "sam2", APACHE, 0.32),
    _folder("sam2.1 large", "sam", "facebook/sam2.1-hiera-large", "sam2", APACHE, 0.9),
    _folder("sam vit base", "sam", "facebook/sam-vit-base", "sams", APACHE),
    _folder("sam vit large", "sam", "facebook/sam-vit-large", "sams", APACHE),
    _folder("sam vit huge", "sam", "facebook/sam-vit-huge", "sams", APACHE, 2.56),
    _folder("sam3", "sam", "facebook/sam3", "sam3", SAM3, gated=True),
    _folder("grounding dino tiny", "detector", "IDEA-Research/grounding-dino-tiny", "grounding-dino", APACHE, 0.69),
    _folder("grounding dino base", "detector", "IDEA-Research/grounding-dino-base", "grounding-dino", APACHE, 0.93),
    _folder("mm grounding dino tiny", "detector", "openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det",
            "grounding-dino", APACHE),
    _folder("florence-2 base", "detector", "florence-community/Florence-2-base", "LLM", MIT),
    _folder("florence-2 large", "detector", "florence-community/Florence-2-large", "LLM", MIT),
    _folder("clipseg", "clipseg", "CIDAS/clipseg-rd64-refined", "clipseg", APACHE, 0.6),
)
