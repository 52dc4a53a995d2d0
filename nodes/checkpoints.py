"""What a training leaves on disk while it goes on, so that it can be gone on from."""
from __future__ import annotations

from comfy_api.latest import io

from . import types

CATEGORY = "masked lora/training"


class Checkpoints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_Checkpoints",
            display_name="Checkpoints and Resume",
            category=CATEGORY,
            description="Saves the whole run every so many steps, at its end, on Cancel and after an error, with a LoRA to try beside "
                        "each. A run of the same name goes on from there, exactly as if it had not been stopped.",
            search_aliases=["save every n steps", "resume training", "continue training", "save state", "intermediate lora", "snapshot"],
            inputs=[
                io.Int.Input("every", default=250, min=1, max=1_000_000, tooltip="Save every so many steps."),
                io.Int.Input("keep", default=3, min=1, max=1000,
                             tooltip="How many are kept on disk; the oldest is deleted with its LoRA as a new one is written."),
                io.Combo.Input("resume", options=["if there is one", "never", "must"], default="if there is one",
                               tooltip="if there is one: go on from the newest checkpoint of this name, else start. never: start, and move "
                               "older checkpoints aside. must: refuse to start from the beginning."),
            ],
            outputs=[types.Checkpoints.Output(display_name="checkpoints", tooltip="For Train Masked LoRA.")],
        )

    @classmethod
    def execute(cls, every: int, keep: int, resume: str) -> io.NodeOutput:
        from ..host.checkpoints import Checkpoints as Spec

        return io.NodeOutput(Spec(every=every, keep=keep, resume=resume))
