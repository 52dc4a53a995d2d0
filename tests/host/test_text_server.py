"""The text padding nodes in a real ComfyUI server."""
from __future__ import annotations

import json

from pack.host.text_padding import PRESETS

from .server import Comfy, Graph

CAPTION = "a red star on the left"


def test_custom_padding_reaches_the_prompt(comfy: Comfy) -> None:
    graph = Graph()
    demo = graph.add("MaskedLoRA_DemoModel")
    parts = {"max_length": 40, "pad_embedding": "zero", "attend": "real", "keep_pads": 2, "encoder_masked": True}
    padding = graph.add("MaskedLoRA_TextPadding", preset="custom", **{f"preset.{key}": value for key, value in parts.items()})
    encoded = graph.add("MaskedLoRA_TextEncode", clip=demo[1], text=CAPTION, padding=padding[0])
    shown = graph.add("PreviewAny", source=encoded[0])
    text = comfy.run(graph).text(shown)
    assert json.dumps(parts, sort_keys=True) in text.replace("\\\"", '"')
    assert '"encoded": 40' in text


def test_padding_of_comfyuis_own_prompt_is_set_with_its_text_alone(comfy: Comfy) -> None:
    graph = Graph()
    demo = graph.add("MaskedLoRA_DemoModel")
    padding = graph.add("MaskedLoRA_TextPadding", preset="comfyui-mask")
    encoded = graph.add("CLIPTextEncode", clip=demo[1], text=CAPTION)
    done = graph.add("MaskedLoRA_SetTextPadding", conditioning=encoded[0], padding=padding[0], clip=demo[1], text=CAPTION)
    shown = graph.add("PreviewAny", source=done[0])
    assert PRESETS["comfyui-mask"].to_json() in comfy.run(graph).text(shown)
    untold = graph.add("MaskedLoRA_SetTextPadding", conditioning=encoded[0], padding=padding[0])
    graph.add("PreviewAny", source=untold[0])
    assert comfy.error(graph, "MaskedLoRA_SetTextPadding").startswith(
        "this conditioning does not tell how many of its tokens are real")
