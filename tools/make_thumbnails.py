"""Write the pictures of workflows/*.json: `python tools/make_thumbnails.py http://127.0.0.1:8188 [NAME ...]`.

The address is that of a running ComfyUI with the pack. Each workflow is run there as it is; its picture is what its preview of masks, its
grid of samples, its map of drift, or the plot of its training then shows. Without names all workflows are run, those that train too. Of
those that load models only the preview of masks is run, and any files under the names that they ask for will do; where the masks are
what the models make, the picture is the graph in the page. Needs Pillow, comfy-cli, and for the page playwright with Chromium, which
MASKED_LORA_BROWSER may name.
"""
from __future__ import annotations

import io
import json
import os
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from comfy_cli.workflow_to_api import convert_ui_to_api
from PIL import Image

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
SHEET, GRID, DRIFT, PAGE = "MaskedLoRA_PreviewMask", "SaveImage", "MaskedLoRA_DriftMap", "the page"
SHOWN = {"quickstart": GRID, "prior_preservation": GRID, "padding_study": GRID, "warm_start": GRID, "masks_from_folder": SHEET,
         "masks_from_alpha": SHEET, "masks_from_graph": SHEET, "masks_for_video": SHEET, "sdxl_as_flow_matching": SHEET, "video": SHEET,
         "verify_lora": DRIFT, "resume": "", "automatic_masks": SHEET, "body_part_masks": PAGE, "masks_from_words": PAGE}
PLOT = {"filename": "plot.png", "subfolder": "masked_lora/resume_logs", "type": "output"}
FIRST_CARDS = (1708, 1446)  # of a sheet, pixels: two cards wide, two high
LARGE_CARDS = (1708, 1346)  # the same where no mask is doubtful
LAST_CLIP = 645  # height of its card in pixels, at the end of a sheet
FRAME, TITLE = 250, 30  # pixels: what the page lays over its edges, and a node's title above it
WIDTH = 760  # pixels
MOST_BYTES = 80_000
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # the server is near: no proxy gets between


def get(address: str, data: bytes | None = None) -> bytes:
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with _open(request) as answer:
        content: bytes = answer.read()
    return content


def run(server: str, prompt: dict[str, Any], *targets: str) -> dict[str, Any]:
    """What the nodes showed, by their numbers. targets: nodes to stop at; without them everything is run."""
    body = {"prompt": prompt, "partial_execution_targets": list(targets) or None}
    number = json.loads(get(f"{server}/prompt", json.dumps(body).encode()))["prompt_id"]
    while number not in (history := json.loads(get(f"{server}/history/{number}"))):
        time.sleep(1)
    entry = history[number]
    if not entry["status"]["completed"]:
        raise RuntimeError(json.dumps(entry["status"]))
    outputs: dict[str, Any] = entry["outputs"]
    return outputs


def picture(server: str, name: str) -> Image.Image:
    if SHOWN[name] == PAGE:
        return page(server, name)
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    prompt = convert_ui_to_api(workflow, json.loads(get(f"{server}/object_info")))
    if name == "warm_start":
        start_from_first(server, prompt)
    if not SHOWN[name]:
        run(server, prompt)
        return view(server, PLOT)
    (node,) = [number for number, node in prompt.items() if node["class_type"] == SHOWN[name]]
    found = view(server, run(server, prompt, node)[node]["images"][0])
    if SHOWN[name] == GRID:
        return found
    if name == "video":  # cards of clips lie one under the other
        return found.crop((0, found.height - LAST_CLIP, *found.size))
    return found.crop((0, 0, *(LARGE_CARDS if name == "sdxl_as_flow_matching" else FIRST_CARDS)))


def page(server: str, name: str) -> Image.Image:
    """The graph as ComfyUI's page draws it."""
    from playwright.sync_api import sync_playwright

    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    left, top, right, bottom = outline([group["bounding"] for group in workflow["groups"]] +
                                       [[*node["pos"], *node["size"]] for node in workflow["nodes"]])
    size = {"width": right - left, "height": bottom - top}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("MASKED_LORA_BROWSER"), args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": size["width"] + 2 * FRAME, "height": size["height"] + 2 * FRAME})
        shown.goto(server)
        shown.wait_for_function("window.app && window.app.graph")
        shown.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
        shown.evaluate("([x, y]) => { const view = window.app.canvas.ds; view.scale = 1; view.offset = [x, y]; "
                       "window.app.canvas.setDirty(true, true); }", [FRAME - left, FRAME - top])
        shown.wait_for_timeout(3000)
        content = shown.screenshot(clip={"x": FRAME, "y": FRAME, **size})
        browser.close()
    return Image.open(io.BytesIO(content)).convert("RGB")


def outline(boxes: list[list[float]]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of all boxes, with the titles of nodes and a margin."""
    edges = [(x, y - TITLE, x + width, y + height) for x, y, width, height in boxes]
    lefts, tops, rights, bottoms = zip(*edges, strict=True)
    return round(min(lefts)) - 20, round(min(tops)) - 20, round(max(rights)) + 20, round(max(bottoms)) + 20


def start_from_first(server: str, prompt: dict[str, Any]) -> None:
    """Train the first LoRA, and choose it as a person does who follows the note."""
    (saver,) = [number for number, node in prompt.items() if node["inputs"].get("filename") == "warm_start_first"]
    (settings,) = [node for node in prompt.values() if node["class_type"] == "MaskedLoRA_Adapter"]
    report = json.loads(run(server, prompt, saver)[saver]["text"][0])
    settings["inputs"]["start_from"] = report["file"].removeprefix("loras/")


def view(server: str, file: dict[str, str]) -> Image.Image:
    return Image.open(io.BytesIO(get(f"{server}/view?{urllib.parse.urlencode(file)}"))).convert("RGB")


def jpeg(found: Image.Image) -> bytes:
    """The picture at WIDTH, as good as fits into MOST_BYTES."""
    small = found.resize((WIDTH, round(found.height * WIDTH / found.width)), Image.Resampling.LANCZOS)
    for quality in range(92, 50, -2):
        small.save(buffer := io.BytesIO(), "JPEG", quality=quality, optimize=True)
        if buffer.tell() < MOST_BYTES:
            return buffer.getvalue()
    raise ValueError(f"a picture of {small.width}x{small.height} does not fit into {MOST_BYTES} bytes; lower WIDTH")


if __name__ == "__main__":
    address, *names = sys.argv[1:]
    for workflow_name in names or SHOWN:
        (WORKFLOWS / f"{workflow_name}.jpg").write_bytes(jpeg(picture(address.rstrip("/"), workflow_name)))
