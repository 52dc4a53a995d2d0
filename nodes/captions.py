"""What is encoded of captions besides the captions themselves."""
from __future__ import annotations

from comfy_api.latest import io

from . import types

CATEGORY = "masked lora/dataset"


class CaptionOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_CaptionOptions",
            display_name="Caption Options",
            category=CATEGORY,
            description="Gives pictures several texts, of which training shows one at each draw: other orders of tags, other captions, and "
                        "what stands for a dropped caption. All are encoded once, by Encode Training Set.",
            search_aliases=["caption dropout", "shuffle caption", "shuffle tags", "keep tokens", "multiple captions", "unconditional"],
            inputs=[
                io.Combo.Input("lines", options=["joined", "first", "random"], default="joined",
                               tooltip="Of a caption of several lines, or a list of captions in a metadata file. joined: one text. first: "
                               "the first alone. random: each is a text of its own."),
                io.Int.Input("orders", default=1, min=1, max=64,
                             tooltip="In how many orders the tags of a caption are encoded, the written one among them. 1 leaves captions "
                             "as they are. 8 is plenty: two tags then keep their order in all of them once in 128 times. More orders cost "
                             "as much more encoding and disk. For tags, not for sentences."),
                io.Int.Input("keep_tags", default=0, min=0, max=1000,
                             tooltip="So many tags stay in front, such as the trigger word. In a caption with ||| those before it stay "
                             "instead, and those behind a second one stay at the end, as sd-scripts does."),
                io.String.Input("separator", default=",", advanced=True, tooltip="What stands between tags."),
                io.String.Input("dropped", default="", multiline=True,
                                tooltip="What a dropped caption becomes. Empty: the empty text. A quality string: that. Several lines: "
                                "one of them at random; an empty first line is the empty text. How often: caption_dropout in Train Masked "
                                "LoRA."),
            ],
            outputs=[types.Captions.Output(display_name="captions", tooltip="For Encode Training Set.")],
        )

    @classmethod
    def execute(cls, lines: str, orders: int, keep_tags: int, separator: str, dropped: str) -> io.NodeOutput:
        from ..dataset.texts import CaptionSpec

        instead = tuple(line.strip() for line in dropped.rstrip().split("\n"))
        return io.NodeOutput(CaptionSpec(lines=lines, orders=orders, kept=keep_tags, separator=separator, dropped=instead))
