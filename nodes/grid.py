"""Pictures side by side."""
from __future__ import annotations

from comfy_api.latest import io

ROWS = 20


class CompareGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        row = io.Image.Input("row", tooltip="The pictures of one row, as a batch.")
        return io.Schema(
            node_id="MaskedLoRA_CompareGrid",
            display_name="Compare Grid",
            category="masked lora/image",
            description="Puts batches of pictures under one another with labels: base model against LoRA, seed by seed.",
            search_aliases=["image grid", "xy plot", "comparison", "contact sheet", "before after", "side by side"],
            inputs=[
                io.Autogrow.Input(
                    "rows", template=io.Autogrow.TemplatePrefix(row, prefix="row", min=1, max=ROWS),
                    tooltip="One batch of pictures for each row; a new socket appears when the last one is used."),
                io.String.Input(
                    "labels", multiline=True, default="", optional=True,
                    tooltip="Row labels, one line for each row from top to bottom. Empty: none."),
                io.String.Input(
                    "columns", multiline=True, default="", optional=True,
                    tooltip="Column labels, one line for each picture of a row from left to right. Empty: none."),
            ],
            outputs=[io.Image.Output(display_name="grid", tooltip="The whole grid as one picture.")],
        )

    @classmethod
    def execute(cls, rows: io.Autogrow.Type, labels: str = "", columns: str = "") -> io.NodeOutput:
        import torch

        from ..masks.comparison import comparison_grid

        pixels = comparison_grid(list(rows.values()), labels.splitlines(), columns.splitlines())
        return io.NodeOutput(torch.from_numpy(pixels).float().div(255)[None])
