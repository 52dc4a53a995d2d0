"""The workflows that make masks by themselves, for build_workflows.py: of a folder, by body parts, by words."""
from __future__ import annotations

from typing import Any

from workflow_graph import BLUE, GREEN, YELLOW, Column, Graph, Output

FOLDER_NOTE = """## Masks for a whole folder, without drawing one

1. **Run** the workflow as it is: three bundled photographs, and small networks that come with the pack. Nothing is downloaded.
2. *Write Masks* makes one mask a picture: face 1, the rest of a person 0.5, background 0; **white = learn**. Run again and only what
   changed is made anew; masks that a person edited or accepted stay.
3. *Review Masks*: accept, have one made anew, or paint it in ComfyUI's mask editor. The coffee cup is taken for a person: that is what the
   review is for.
4. *Preview Mask Weights* shows what training would see.

For your own pictures: name a folder inside ComfyUI's input directory in *Load Training Folder* and set *layout* to **masks folder**. Other
plans (*Body Part Masks*, *Masks from Words*) go in place of *Quick Person and Face Masks*, or behind it by *plan*. To train, connect the
data set to *Crop and Bucket Pictures*, as the quickstart does."""

PARTS_NOTE = """## Weights for body parts

*Load Body Part Model* names the model; on the first run switch **accept_licence** on to download it, after reading what the licence
forbids (the node tells). A file that you have goes into *models/sapiens*.

- *Body Part Masks*: face 1, body and clothing 0.5, hair 0.3, background 0; **white = learn**. Edges are soft, as the model is sure.
- *Make Masks* tries the plan on pictures. *Write Masks* runs the same plan on a folder, as in the workflow for whole folders.
- A recipe behind *Mask Step* blurs the weights a little, so that no seam is learned."""

WORDS_NOTE = """## Masks from words

*Load Detector* finds what the words name, *Load SAM* turns the boxes into masks; **white = learn**, at the weight behind each line's words.
Both download on the first run once **accept_licence** is on, or take files that other packs have put into *models*.

- *source*: search for all words, or only for those that stand in a picture's caption.
- Without SAM the boxes themselves are the masks.
- *Make Masks* tries the plan; *Write Masks* runs it on a folder, as in the workflow for whole folders."""


def automatic(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (680, 280), FOLDER_NOTE)
    g.group("Pictures and plan", 0, 330, 680, 740, BLUE)
    g.group("Masks for all", 700, 0, 420, 1070, GREEN)
    g.group("Review", 1140, 0, 620, 1070, YELLOW)
    g.group("What training will see", 1780, 0, 600, 1070, YELLOW)
    data_set = photographs(g, (20, 405))
    plan, = g.add("MaskedLoRA_QuickMasks", (360, 405), (300, 240))
    written, *_ = g.add("MaskedLoRA_WriteMasks", (720, 75), (380, 975), data_set=data_set, plan=plan,
                        **{"layout": "another folder", "layout.folder": "demo_masks [output]"})
    reviewed, _ = g.add("MaskedLoRA_ReviewMasks", (1160, 75), (580, 975), data_set=written)
    g.add("MaskedLoRA_PreviewMask", (1800, 75), (560, 975), data_set=reviewed)
    return g


def body_parts(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (680, 250), PARTS_NOTE)
    g.group("Pictures, model and plan", 0, 300, 680, 860, BLUE)
    parser, = g.add("MaskedLoRA_LoadBodyParser", (360, 375), (300, 110), model="sapiens2 0.4b (download)")
    blur, = g.add("MaskedLoRA_MaskStep", (360, 540), (300, 145), **{"step": "blur", "step.unit": "share", "step.unit.amount": 0.005})
    plan, = g.add("MaskedLoRA_BodyParts", (360, 740), (300, 330), parser=parser, recipe=blur)
    return tried(g, photographs(g, (20, 375)), plan)


def by_words(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (680, 250), WORDS_NOTE)
    g.group("Pictures, models and plan", 0, 300, 680, 860, BLUE)
    detector, = g.add("MaskedLoRA_LoadDetector", (360, 375), (300, 110), model="grounding dino tiny (download)")
    sam, = g.add("MaskedLoRA_LoadSam", (360, 540), (300, 110), model="sam2.1 tiny (download)")
    plan, = g.add("MaskedLoRA_WordMasks", (360, 705), (300, 430), detector=detector, sam=sam, weights="astronaut 1\nphotographer 1\ncup 1",
                  source="words in the caption")
    return tried(g, photographs(g, (20, 375)), plan)


def photographs(g: Graph, at: tuple[int, int]) -> Output:
    return g.add("MaskedLoRA_LoadFolder", at, (300, 640), folder="demo photographs", mask_source="none")[0]


def tried(g: Graph, data_set: Output, plan: Output) -> Graph:
    """The plan on the first picture, and on the folder."""
    g.group("One picture", 700, 0, 340, 1160, GREEN)
    g.group("What of it is learned", 1060, 0, 600, 1160, YELLOW)
    g.group("The folder", 1680, 0, 420, 1160, YELLOW)
    column = Column(g, 720, 75, 300)
    images, _, captions, names = column.add("MaskedLoRA_DataSetToLists", 180, data_set=data_set, count=1)
    mask, *_ = column.add("MaskedLoRA_MakeMasks", 300, plan=plan, image=images, caption=captions)
    g.add("MaskedLoRA_PreviewMask", (1080, 75), (560, 1065), images=images, masks=mask, names=names)
    g.add("MaskedLoRA_WriteMasks", (1700, 75), (380, 1065), data_set=data_set, plan=plan,
          **{"layout": "another folder", "layout.folder": "demo_masks [output]"})
    return g
