"""Body part models in a real ComfyUI: found in models/, loaded, and masks that core's nodes save. White = learn."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pack.tests.segmentation.tiny_body import SAPIENS1_FILE, paint, save_face_parsing, save_sapiens1
from PIL import Image

from .defaults import new_graph
from .server import Comfy

AREAS = [(3, 40, 20, 100, 60), (2, 40, 60, 100, 100), (22, 40, 100, 100, 140), (21, 40, 140, 100, 180)]  # hair, face, shirt, torso


@pytest.fixture(scope="module")
def sapiens(comfy: Comfy) -> str:
    (comfy.models / "sapiens").mkdir(exist_ok=True)
    save_sapiens1(comfy.models / "sapiens" / SAPIENS1_FILE)
    save_face_parsing(comfy.models / "face_parsing" / "face-parsing")
    picture = np.concatenate([paint(240, 160, *AREAS).numpy()] * 2, 1)
    Image.fromarray(picture).save(comfy.input / "body.png")
    Image.fromarray(picture).convert("L").save(comfy.input / "grey.png")
    Image.fromarray(np.pad(np.full((240, 160), 255, np.uint8), ((0, 0), (0, 160)))).convert("RGB").save(comfy.input / "person.png")
    return f"sapiens/{SAPIENS1_FILE}"


def levels(mask: Image.Image, x: int) -> list[int]:
    pixels = np.asarray(mask.convert("L"))
    return [int(pixels[y, x]) for y in (40, 80, 120, 160, 220)]


@pytest.mark.parametrize("how", ["whole", "box", "person"])
def test_weights_of_body_parts(comfy: Comfy, sapiens: str, how: str) -> None:
    graph = new_graph(comfy)
    parser = graph.add("MaskedLoRA_LoadBodyParser", model=sapiens)
    image = graph.add("LoadImage", image="body.png")
    more: dict[str, Any] = {}
    if how == "box":
        more["boxes"] = graph.add("PrimitiveBoundingBox", x=40, y=20, width=60, height=160)[0]
    if how == "person":
        more["person"] = graph.add("LoadImageMask", image="person.png", channel="red")[0]
    masks = graph.add("MaskedLoRA_BodyPartMasks", parser=parser[0], image=image[0], **more)
    saved = [graph.add("SaveImage", images=graph.add("MaskToImage", mask=masks[slot])[0], filename_prefix="body") for slot in (0, 1)]
    run = comfy.run(graph)
    weight, face = (run.images(node)[0] for node in saved)
    assert levels(weight, 70) == [80, 255, 128, 128, 0]
    assert levels(weight, 230) == ([80, 255, 128, 128, 0] if how == "whole" else [0] * 5)
    assert levels(face, 70) == [0, 255, 0, 0, 0]
    assert run.text(masks).startswith("picture 1: face ")


@pytest.mark.parametrize("person", [False, True])
def test_a_plan_of_body_parts_runs(comfy: Comfy, sapiens: str, person: bool) -> None:
    """Tried on a picture. With `person` another plan, of the hair alone, stands for one that finds a person."""
    graph = new_graph(comfy)
    parser = graph.add("MaskedLoRA_LoadBodyParser", model=sapiens)
    hair = graph.add("MaskedLoRA_BodyParts", parser=parser[0], face=0.0, hair=1.0, body=0.0, clothing=0.0)
    plan = graph.add("MaskedLoRA_BodyParts", parser=parser[0], **({"person": hair[0]} if person else {}))
    made = graph.add("MaskedLoRA_MakeMasks", plan=plan[0], image=graph.add("LoadImage", image="body.png")[0])
    saved = graph.add("SaveImage", images=graph.add("MaskToImage", mask=made[0])[0], filename_prefix="body")
    [mask] = comfy.run(graph).images(saved)
    assert levels(mask, 70) == levels(mask, 230) == ([80, 0, 0, 0, 0] if person else [80, 255, 128, 128, 0])


def test_a_grey_picture_and_a_wrong_model(comfy: Comfy, sapiens: str) -> None:
    graph = new_graph(comfy)
    parser = graph.add("MaskedLoRA_LoadBodyParser", model="face_parsing/face-parsing")
    masks = graph.add("MaskedLoRA_BodyPartMasks", parser=parser[0], image=graph.add("LoadImage", image="grey.png")[0])
    graph.add("PreviewAny", source=masks[5])
    assert comfy.run(graph).text(masks).startswith("picture 1: ")
    (comfy.models / "sapiens" / "wrong.pt2").write_bytes(b"<html>")
    graph = new_graph(comfy)
    graph.add("PreviewAny", source=graph.add("MaskedLoRA_LoadBodyParser", model="sapiens/wrong.pt2")[0])
    assert "is no whole TorchScript file" in comfy.error(graph, "MaskedLoRA_LoadBodyParser")
