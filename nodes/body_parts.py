"""Masks of face, hair, body and clothing by body part models. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from . import types
from .model_inputs import model_inputs
from .plan_inputs import CATEGORY, joined, joining, plan_output

if TYPE_CHECKING:
    from torch import Tensor

    from ..host.managed import Managed
    from ..host.mask_plan import MaskPlan
    from ..masks.combine import How
    from ..masks.recipe import MaskRecipe
    from ..segmentation.body_parser import BodyParser
    from ..segmentation.body_parts import Detector
    from ..segmentation.catalogue import Family

FAMILIES: tuple[Family, ...] = ("sapiens", "face parsing")
ALIASES = ["sapiens", "face parsing", "human parsing", "segment body", "face mask", "hair mask", "skin mask", "clothes mask",
           "blissful mask"]


def _weight(name: str, default: float, what: str) -> io.Input:
    return io.Float.Input(
        name, default=default, min=0.0, max=1.0, step=0.01, round=0.001,
        tooltip=f"Weight of {what}. White = learn. The defaults are blissful-tuner's grey levels: face 255, hair 80, body 128, clothing "
        "128, background 0 of 255.")


def _weights() -> list[io.Input]:
    return [
        _weight("face", 1.0, "the face; Sapiens counts the neck as face, unless a face oval is given"),
        _weight("hair", 0.314, "the hair; a beard is face"),
        _weight("body", 0.502, "the skin of the body; all of a person for Sapiens' foreground file"),
        _weight("clothing", 0.502, "clothes, shoes, hats and jewellery"),
        _weight("background", 0.0, "all the rest"),
    ]


class LoadBodyParser(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_LoadBodyParser",
            display_name="Load Body Part Model",
            category=CATEGORY,
            description="Loads Sapiens2, Sapiens or SegFormer face parsing, which tell face, hair, body and clothing apart, for masks "
            "(white = learn).",
            search_aliases=ALIASES,
            inputs=model_inputs("A file or folder in models/sapiens, a folder in models/face_parsing or models/RMBG, or a model to "
                                "download. Sapiens (.pt2): the float32 TorchScript files, not the bfloat16 ones.", *FAMILIES),
            outputs=[types.BodyParser.Output(display_name="parser", tooltip="For Body Part Masks. White = learn.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: str, accept_licence: bool) -> io.NodeOutput:
        from ..host.managed import inference_dtype, manage
        from ..host.model_files import find
        from ..segmentation.body_models import load_body_parser

        parser = load_body_parser(find(model, FAMILIES, accept_licence, cls.hidden.unique_id), inference_dtype())
        return io.NodeOutput(manage(parser, parser.module))


class BodyParts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_BodyParts",
            display_name="Body Part Masks",
            category=CATEGORY,
            description="Plans masks of weights (white = learn) for face, hair, body and clothing; Make Masks tries the plan on a picture, "
            "Write Masks runs it on a folder.",
            search_aliases=ALIASES,
            inputs=[
                types.BodyParser.Input("parser", tooltip="From Load Body Part Model."),
                *_weights(),
                types.Detector.Input(
                    "detector", optional=True,
                    tooltip="From Load Detector: each person that it finds is parsed enlarged. For small people in wide pictures."),
                types.MaskPlan.Input(
                    "person", optional=True,
                    tooltip="Finds the one person that is meant, of several: only this one counts, and is parsed enlarged. White = learn."),
                types.MaskPlan.Input(
                    "face_oval", optional=True,
                    tooltip="Finds the face without the neck: what lies outside falls to the body, as does all where no oval is found. "
                    "White = face, to learn."),
                *joining(),
            ],
            outputs=[plan_output()],
        )

    @classmethod
    def execute(cls, parser: Managed[BodyParser], face: float, hair: float, body: float, clothing: float, background: float,
                detector: Managed[Detector] | None = None, person: MaskPlan | None = None, face_oval: MaskPlan | None = None,
                plan: MaskPlan | None = None, how: How = "max", recipe: MaskRecipe | None = None) -> io.NodeOutput:
        from ..host.plan_segmenter import PlanSegmenter
        from ..segmentation.body_parts import BodyParts as Segmenter
        from ..segmentation.body_parts import DetectedPeople

        people = DetectedPeople(detector, detector.model.name) if detector is not None else None
        who, oval = (PlanSegmenter(part) if part is not None else None for part in (person, face_oval))
        weights = {"face": face, "hair": hair, "body": body, "clothing": clothing, "background": background}
        return io.NodeOutput(joined(Segmenter(parser, parser.model.name, people, who, oval), weights, plan, how, recipe))


class BodyPartMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        mask_tip = "White = learn; black where it was not found."
        return io.Schema(
            node_id="MaskedLoRA_BodyPartMasks",
            display_name="Body Part Masks of Pictures",
            category=CATEGORY,
            description="Masks of face, hair, body and clothing, and one of their weights (white = learn), with boxes and masks of any "
            "node for these pictures.",
            search_aliases=ALIASES,
            inputs=[
                types.BodyParser.Input("parser", tooltip="From Load Body Part Model."),
                io.Image.Input("image", tooltip="One picture or a batch. White in its masks = learn."),
                *_weights(),
                io.BoundingBox.Input(
                    "boxes", optional=True, force_input=True,
                    tooltip="Boxes of people from any node, such as RT-DETR's or Find Boxes: each is parsed enlarged. For small people in "
                    "wide pictures."),
                io.Mask.Input(
                    "person", optional=True,
                    tooltip="White = the one person that is meant, of several: only this one is learned, and is parsed enlarged."),
                io.Mask.Input(
                    "face_oval", optional=True,
                    tooltip="White = the face without the neck, to learn, such as MediaPipe's face oval. What lies outside falls to the "
                    "body."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="The weight of every pixel. White = learn."),
                *(io.Mask.Output(display_name=group, tooltip=mask_tip) for group in ("face", "hair", "body", "clothing")),
                io.String.Output(display_name="report", tooltip="What was found in each picture, and how much of it. White = learn."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, parser: Managed[BodyParser], image: Tensor, face: float, hair: float, body: float, clothing: float,
                background: float, boxes: object = None, person: Tensor | None = None, face_oval: Tensor | None = None) -> io.NodeOutput:
        from ..host.body_part_masks import body_part_masks
        from ..host.progress import Progress
        from ..masks.review import first_lines

        weights = {"face": face, "hair": hair, "body": body, "clothing": clothing, "background": background}
        masks = body_part_masks(parser, image, weights, boxes, person, face_oval, Progress(cls.hidden.unique_id).update)
        return io.NodeOutput(masks.weight_BHW, *masks.groups.values(), masks.report, ui=ui.PreviewText(first_lines(masks.report)))
