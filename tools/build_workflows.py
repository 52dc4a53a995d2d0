"""Write workflows/*.json in ComfyUI's UI form from short descriptions: `python tools/build_workflows.py OBJECT_INFO.json`.

OBJECT_INFO.json is what a running ComfyUI with the pack answers to GET /object_info; it gives inputs their order and types,
so that a changed schema is picked up here and nowhere else.
"""
from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SEEDS = ("seed", "noise_seed")
PACK = {"cnr_id": "masked-lora", "ver": "0.1.0"}
CORE = {"cnr_id": "comfy-core", "ver": "0.30.0"}


@dataclass(frozen=True)
class Output:
    node: int
    slot: int
    type: str


@dataclass
class Graph:
    """A workflow under construction; `add` returns the new node's outputs."""

    schemas: dict[str, Any]
    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, at: tuple[int, int], size: tuple[int, int], title: str | None = None, /, **given: Any) -> list[Output]:
        schema, node_id = self.schemas[kind], len(self.nodes) + 1
        order = [name for part in ("required", "optional") for name in schema["input_order"].get(part, [])]
        specs = {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}
        unknown = {name.split(".")[0] for name in given} - set(order)
        if unknown:
            raise ValueError(f"{kind} has no input {', '.join(sorted(unknown))}; it has {', '.join(order)}")
        inputs, values = [], []
        for name in order:
            kind_of, options = specs[name][0], (specs[name] + [{}])[1]
            if kind_of == "COMFY_AUTOGROW_V3":
                grown = [(key, value) for key, value in given.items() if key.startswith(f"{name}.")]
                inputs += [self.link(node_id, len(inputs) + i, key, value) | {"label": key.partition(".")[2]}
                           for i, (key, value) in enumerate(grown)]
            elif (isinstance(kind_of, list) or kind_of in WIDGETS) and not options.get("forceInput"):
                values.append(given.get(name, options.get("default", kind_of[0] if isinstance(kind_of, list) else None)))
                # The page adds this widget to a seed also where the schema does not ask for it, and randomizes by default.
                if options.get("control_after_generate", name in SEEDS):
                    values.append("fixed")
            else:
                inputs.append(self.link(node_id, len(inputs), name, given.get(name), kind_of))
        outputs = [Output(node_id, i, t) for i, t in enumerate(schema["output"])]
        self.nodes.append({
            "id": node_id, "type": kind, "pos": list(at), "size": list(size), "flags": {}, "order": node_id - 1, "mode": 0,
            "inputs": inputs,
            "outputs": [{"name": n, "type": o.type, "links": []} for n, o in zip(schema["output_name"], outputs, strict=True)],
            "properties": {**(PACK if kind.startswith("MaskedLoRA_") else CORE), "Node name for S&R": kind}, "widgets_values": values,
            **({"title": title} if title else {}),
        })
        return outputs

    def link(self, node: int, slot: int, name: str, source: Output | None, kind: str | None = None) -> dict[str, Any]:
        if source is None:
            return {"name": name, "type": kind, "link": None}
        self.links.append([len(self.links) + 1, source.node, source.slot, node, slot, source.type])
        return {"name": name, "type": kind or source.type, "link": len(self.links)}

    def note(self, at: tuple[int, int], size: tuple[int, int], text: str) -> None:
        self.nodes.append({
            "id": len(self.nodes) + 1, "type": "MarkdownNote", "pos": list(at), "size": list(size), "flags": {}, "order": len(self.nodes),
            "mode": 0, "inputs": [], "outputs": [], "properties": {}, "widgets_values": [text], "color": "#432", "bgcolor": "#653"})

    def group(self, title: str, x: int, y: int, width: int, height: int, color: str) -> None:
        self.groups.append({"id": len(self.groups) + 1, "title": title, "bounding": [x, y, width, height], "color": color, "font_size": 24,
                            "flags": {}})

    def save(self, file: Path) -> None:
        for number, node, slot, *_ in self.links:
            self.nodes[node - 1]["outputs"][slot]["links"].append(number)
        workflow = {
            "id": "6f1d2c1e-6a0e-4d1c-9a51-0c6d7a5b1f00", "revision": 0, "last_node_id": len(self.nodes), "last_link_id": len(self.links),
            "nodes": self.nodes, "links": self.links, "groups": self.groups, "config": {}, "extra": {}, "version": 0.4}
        file.write_text(json.dumps(workflow, indent=1) + "\n", encoding="utf-8")


NOTE = """## Train a masked LoRA and sample it as it was trained

1. **Run** the workflow as it is: a small bundled model learns a *pibo* from twelve bundled pictures, on a CPU in a few minutes.
2. Look at **Preview Mask Weights**: white = learn. The pictures have a loud frame and confetti around the pibo; the masks keep them out.
3. Watch the loss on **Train Masked LoRA**. Cancel saves what was learned so far.
4. The **grid** shows the same seeds before and after, and the same LoRA under a text padding that it was not trained with.

For your own LoRA: put your loaders in place of *Demo Model*, name a folder inside ComfyUI's input directory (pictures, masks in
*masks*, captions in text files) in *Load Training Folder*, choose the trainer whose text padding you follow in *Text Padding*, and
lower the learning rate to about 1e-4. *Apply Trained LoRA* hands the padding on to *Text Encode*, so that sampling matches training
by construction."""


def quickstart(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (670, 300), NOTE)
    g.group("Model, pictures and masks", 0, 350, 670, 970, "#3f789e")
    g.group("Train", 690, 0, 710, 1320, "#8A8")
    g.group("Sample before and after, same seeds", 1420, 0, 880, 1320, "#b58b2a")
    model, clip, vae = g.add("MaskedLoRA_DemoModel", (20, 425), (290, 110))
    images, masks, captions, names, _ = g.add("MaskedLoRA_LoadFolder", (20, 590), (290, 260), folder="demo", size=128)
    recipe, = g.add("MaskedLoRA_MaskRecipe", (340, 425), (310, 180), blur=0.01)
    padding, = g.add("MaskedLoRA_TextPadding", (20, 905), (290, 100), preset="comfyui-mask")
    g.add("MaskedLoRA_PreviewMask", (340, 660), (310, 640), images=images, masks=masks, recipe=recipe, vae=vae, names=names)
    training_set, _ = g.add("MaskedLoRA_EncodeTrainingSet", (710, 75), (320, 190), images=images, masks=masks, captions=captions,
                            names=names, clip=clip, vae=vae, padding=padding)
    lora, loss, _ = g.add("MaskedLoRA_Train", (710, 320), (320, 620), model=model, training_set=training_set, recipe=recipe, **TRAINING)
    g.add("MaskedLoRA_SaveLora", (710, 995), (320, 170), lora=lora, filename="quickstart")
    g.add("LossGraphNode", (1060, 75), (320, 340), loss=loss, filename_prefix="masked_lora/loss")
    g.add("MaskedLoRA_MeasureDrift", (1060, 470), (320, 270), model=model, lora=lora, training_set=training_set, recipe=recipe)
    adapted, trained_padding = g.add("MaskedLoRA_ApplyLora", (1060, 795), (320, 190), model=model, lora=lora)
    sample(g, model, adapted, clip, vae, trained_padding)
    return g


def sample(g: Graph, model: Output, adapted: Output, clip: Output, vae: Output, trained_padding: Output) -> None:
    plain, = g.add("MaskedLoRA_TextPadding", (1440, 75), (240, 100), "ComfyUI's own padding", preset="comfyui")
    conds = {}
    for i, (padding, (title, text)) in enumerate(itertools.product((plain, trained_padding), PROMPTS.items())):
        words = "ComfyUI's padding" if padding is plain else "matched"
        conds[padding, title], = g.add("MaskedLoRA_TextEncode", (1440, 230 + 245 * i), (240, 190), f"{title}, {words}", clip=clip,
                                       text=text, padding=padding)
    latent, = g.add("EmptySD3LatentImage", (1710, 1010), (250, 140), width=128, height=128, batch_size=4)
    runs = (("before", model, plain), ("after, matched", adapted, trained_padding), ("after, other padding", adapted, plain))
    rows = {}
    for i, (words, source, padding) in enumerate(runs):
        sampled, = g.add("KSampler", (1710, 75 + 310 * i), (250, 262), f"KSampler: {words}", model=source, seed=1, steps=20, cfg=1.0,
                         sampler_name="euler", scheduler="simple", positive=conds[padding, "pibo"], negative=conds[padding, "empty"],
                         latent_image=latent, denoise=1.0)
        rows[f"rows.row{i}"], = g.add("VAEDecode", (1990, 75 + 110 * i), (290, 60), samples=sampled, vae=vae)
    grid, = g.add("MaskedLoRA_CompareGrid", (1990, 405), (290, 310), **rows,
                  labels="base model\nwith LoRA, as trained\nwith LoRA, other padding",
                  columns="seed 1, first\nsecond\nthird\nfourth")
    g.add("SaveImage", (1990, 770), (290, 400), images=grid, filename_prefix="masked_lora/grid")


PROMPTS = {"pibo": "a pibo on the middle, striped pink background", "empty": ""}
TRAINING = {"steps": 400, "batch_size": 4, "learning_rate": 2e-3, "rank": 8, "alpha": 8.0, "normalization": "step", "shift": 2.0, "seed": 0,
            "name": "quickstart"}

if __name__ == "__main__":
    quickstart(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))).save(WORKFLOWS / "quickstart.json")
