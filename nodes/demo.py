"""A model small enough to train on two CPU cores."""
from __future__ import annotations

from comfy_api.latest import io


class DemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_DemoModel",
            display_name="Demo Model (Pico Flux)",
            category="masked lora/demo",
            description="A real Flux of 6.8 million parameters with a small T5, CLIP-L and autoencoder, bundled with the pack. It draws "
                        "coloured shapes at 128 x 128 pixels and trains on a CPU in minutes: try a workflow with it, then put your own "
                        "loaders in its place.",
            search_aliases=["tiny flux", "toy model", "example model", "load demo"],
            outputs=[io.Model.Output(display_name="model"), io.Clip.Output(display_name="clip"), io.Vae.Output(display_name="vae")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..host.demo_model import load_autoencoder, load_diffusion_model, load_text_encoders
        from ..host.folders import DEMO_MODEL

        return io.NodeOutput(load_diffusion_model(DEMO_MODEL), load_text_encoders(DEMO_MODEL), load_autoencoder(DEMO_MODEL))
