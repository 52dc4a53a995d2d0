"""Masks of what words name, by detectors, SAM and CLIPSeg. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import types
from .model_inputs import model_inputs
from .plan_inputs import CATEGORY, joined, joining, plan_output

if TYPE_CHECKING:
    from torch import Tensor

    from ..host.managed import Managed
    from ..host.mask_plan import MaskPlan
    from ..masks.combine import How
    from ..masks.recipe import MaskRecipe
    from ..segmentation.clipseg import ClipSeg
    from ..segmentation.detector import Detector
    from ..segmentation.grounded import Source
    from ..segmentation.sam_prompt import Sam

SOURCES = ("the words", "words in the caption", "all that the caption names")  # of segmentation/grounded.py, which needs torch
TABLE = "person 0.5\nface 1.0"


def _weights(more: str = "") -> io.Input:
    return io.String.Input(
        "weights", multiline=True, default=TABLE,
        tooltip="One thing and its weight from 0 to 1 a line, such as: red hair 0.8. White = learn, at this weight. A line \"background\" "
        f"is the weight of all the rest.{more}")


def _threshold(default: float, tooltip: str) -> io.Input:
    return io.Float.Input("threshold", default=default, min=0.0, max=1.0, step=0.05, round=0.001, tooltip=tooltip)


def _thresholds() -> list[io.Input]:
    return [
        _threshold(0.3, "How sure GroundingDINO must be of a box; lower finds more, also what is not there. Florence-2 gives no scores."),
        io.Float.Input("text_threshold", default=0.25, min=0.0, max=1.0, step=0.05, round=0.001, advanced=True,
                       tooltip="How sure GroundingDINO must be of a phrase's surest word; matters only where it is above threshold."),
        io.Int.Input("most", default=10, min=1, max=100, advanced=True, tooltip="At most so many boxes of each thing, the surest first."),
    ]


class LoadDetector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_LoadDetector",
            display_name="Load Detector",
            category=CATEGORY,
            description="Loads GroundingDINO, MM-GroundingDINO or Florence-2, which find what words name, for masks (white = learn).",
            search_aliases=["groundingdino", "grounding dino", "florence2", "florence-2", "mm grounding dino", "open vocabulary detection"],
            inputs=model_inputs("A folder or file in models/grounding-dino, a folder in models/LLM, or a model to download. Other packs' "
                                "Florence-2 folders and GroundingDINO files load as they are.", "detector"),
            outputs=[types.Detector.Output(display_name="detector", tooltip="For Masks from Words and Find Boxes. White = learn.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: str, accept_licence: bool) -> io.NodeOutput:
        from ..host.managed import inference_dtype, manage
        from ..host.model_files import find
        from ..host.weights import read_weights
        from ..segmentation.detector import load_detector

        path = find(model, ("detector",), accept_licence, cls.hidden.unique_id)
        detector = load_detector(path, inference_dtype(), read_weights)
        return io.NodeOutput(manage(detector, detector.module))


class FindBoxes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_FindBoxes",
            display_name="Find Boxes",
            category=CATEGORY,
            description="Finds what words name in pictures: boxes for core's nodes, body part crops or SAM, whose masks say white = learn.",
            search_aliases=["groundingdino", "florence2", "bounding box", "bbox", "detect", "text to box", "phrase grounding"],
            inputs=[
                types.Detector.Input("detector", tooltip="From Load Detector."),
                io.Image.Input("image", tooltip="One picture or a batch."),
                io.String.Input("words", multiline=True, default="person", tooltip="One thing a line. A box's label is the line."),
                *_thresholds(),
            ],
            outputs=[io.BoundingBox.Output(display_name="boxes", tooltip="For each picture a list of boxes in pixels, the surest first.")],
        )

    @classmethod
    def execute(cls, detector: Managed[Detector], image: Tensor, words: str, threshold: float, text_threshold: float,
                most: int) -> io.NodeOutput:
        from ..segmentation.detector import surest
        from ..segmentation.segmenter import to_bytes

        phrases = [line.strip() for line in words.splitlines() if line.strip()]
        if not phrases:
            raise ValueError("there are no words to search for; write one thing a line, such as: person")
        found = [surest(detector().find(to_bytes(picture_HWC), phrases, threshold, text_threshold), most) for picture_HWC in image]
        return io.NodeOutput([[box.to_dict() for box in boxes] for boxes in found])


class WordMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_WordMasks",
            display_name="Masks from Words",
            category=CATEGORY,
            description="Plans masks of what words name (white = learn): a detector finds boxes, SAM what lies in them; words typed, or "
            "those of each caption.",
            search_aliases=["grounded sam", "groundingdino sam", "text to mask", "segment anything by text", "caption to mask",
                            "florence2 sam", "phrase mask"],
            inputs=[
                _weights(" For \"all that the caption names\" a line \"other\" is the weight of what no line names."),
                io.Combo.Input(
                    "source", options=list(SOURCES), default=SOURCES[0],
                    tooltip="the words: each line is searched for in every picture. words in the caption: only lines whose words stand in "
                    "the picture's caption, singular or plural. all that the caption names: every tag or phrase of the caption."),
                *_thresholds(),
                types.Detector.Input(
                    "detector", optional=True, tooltip="From Load Detector. Not needed with a SAM that reads text (SAM 3)."),
                types.Sam.Input(
                    "sam", optional=True,
                    tooltip="From Load SAM: the mask is the thing. Without it the mask is the whole box. White = learn."),
                *joining(),
            ],
            outputs=[plan_output()],
        )

    @classmethod
    def execute(cls, weights: str, source: Source, threshold: float, text_threshold: float, most: int,
                detector: Managed[Detector] | None = None, sam: Managed[Sam] | None = None, plan: MaskPlan | None = None,
                how: How = "max", recipe: MaskRecipe | None = None) -> io.NodeOutput:
        from ..masks.regions import read_weights
        from ..segmentation.grounded import Grounded

        table = read_weights(weights)
        names = tuple(managed.model.name for managed in (detector, sam) if managed is not None)
        segmenter = Grounded(detector, sam, names, _words(table), source, threshold, text_threshold, most)
        return io.NodeOutput(joined(segmenter, table, plan, how, recipe))


class LoadClipSeg(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_LoadClipSeg",
            display_name="Load CLIPSeg",
            category=CATEGORY,
            description="Loads CLIPSeg: soft, coarse masks (white = learn) from words with one small model.",
            search_aliases=["clipseg", "clip segmentation", "text to mask", "light segmentation"],
            inputs=model_inputs("A folder in models/clipseg, or a model to download.", "clipseg"),
            outputs=[types.ClipSeg.Output(display_name="clipseg", tooltip="For Masks by CLIPSeg. White = learn.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: str, accept_licence: bool) -> io.NodeOutput:
        from ..host.managed import inference_dtype, manage
        from ..host.model_files import find
        from ..segmentation.clipseg import load_clipseg

        clipseg = load_clipseg(find(model, ("clipseg",), accept_licence, cls.hidden.unique_id), inference_dtype())
        return io.NodeOutput(manage(clipseg, clipseg.module))


class ClipSegMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_ClipSegMasks",
            display_name="Masks by CLIPSeg",
            category=CATEGORY,
            description="Plans soft masks of what words name (white = learn) with CLIPSeg alone: quick and coarse.",
            search_aliases=["clipseg", "text to mask", "txt2mask", "soft mask", "light text mask"],
            inputs=[
                types.ClipSeg.Input("clipseg", tooltip="From Load CLIPSeg."),
                _weights(),
                io.Combo.Input(
                    "source", options=list(SOURCES[:2]), default=SOURCES[0],
                    tooltip="the words: each line is searched for in every picture. words in the caption: only lines whose words stand in "
                    "the picture's caption, singular or plural."),
                _threshold(0.4, "A thing counts as found if its mask reaches this anywhere; the mask itself stays soft. White = learn."),
                *joining(),
            ],
            outputs=[plan_output()],
        )

    @classmethod
    def execute(cls, clipseg: Managed[ClipSeg], weights: str, source: Source, threshold: float, plan: MaskPlan | None = None,
                how: How = "max", recipe: MaskRecipe | None = None) -> io.NodeOutput:
        from ..masks.regions import read_weights
        from ..segmentation.clipseg import ClipSegWords

        table = read_weights(weights)
        segmenter = ClipSegWords(clipseg, clipseg.model.name, _words(table), threshold, source != SOURCES[0])
        return io.NodeOutput(joined(segmenter, table, plan, how, recipe))


def _words(table: dict[str, float]) -> tuple[str, ...]:
    return tuple(word for word in table if word != "background")
