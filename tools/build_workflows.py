"""Write workflows/*.json in ComfyUI's UI form from short descriptions: `python tools/build_workflows.py OBJECT_INFO.json`.

OBJECT_INFO.json is what a running ComfyUI with the pack answers to GET /object_info; it gives inputs their order and types,
so that a changed schema is picked up here and nowhere else.
"""
from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

from mask_workflows import automatic, body_parts, by_words
from trainer_workflows import resume, sdxl_flow, video, warm_start
from verification_workflows import padding_study, verify
from workflow_graph import BLUE, GREEN, HEART, PROMPTS, SAMPLING, SQUARES, TRAINING, YELLOW, Column, Graph, Output

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"

NOTE = """## Train a masked LoRA and sample it as it was trained

1. **Run** the workflow as it is: a small bundled model learns a *pibo* from twelve bundled pictures, on a CPU in a few minutes.
2. Look at **Preview Mask Weights**: white = learn. The pictures have a loud frame and confetti around the pibo; the masks keep them out.
3. Watch the loss on **Train Masked LoRA**. Cancel saves what was learned so far.
4. The **grid** shows the same seeds before and after, and the same LoRA under a text padding that it was not trained with.

For your own LoRA: put your loaders in place of *Demo Model (Pico Flux)*, name a folder inside ComfyUI's input directory (pictures,
masks in *masks*, captions in text files) in *Load Training Folder*, choose the trainer whose text padding you follow in *Text
Padding*, and lower the learning rate to about 1e-4. *Apply Trained LoRA (matched)* hands the padding on to *Text Encode (padding
mode)*, so that sampling matches training by construction."""


def quickstart(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (1000, 300), NOTE)
    g.group("Model, pictures and masks", 0, 350, 1000, 1185, BLUE)
    g.group("Train", 1020, 0, 710, 1535, GREEN)
    g.group("Sample before and after, same seeds", 1750, 0, 880, 1535, YELLOW)
    model, clip, vae = g.add("MaskedLoRA_DemoModel", (20, 425), (290, 110))
    loaded, _ = g.add("MaskedLoRA_LoadFolder", (20, 590), (290, 640), folder="demo", mask_source="folder")
    data_set, _ = g.add("MaskedLoRA_Arrange", (340, 425), (290, 580), data_set=loaded, vae=vae, model=model, **SQUARES)
    recipe, = g.add("MaskedLoRA_MaskRecipe", (660, 425), (310, 200), blur=0.01)
    padding, = g.add("MaskedLoRA_TextPadding", (340, 1060), (290, 100), preset="comfyui-mask")
    g.add("MaskedLoRA_PreviewMask", (660, 680), (310, 620), data_set=data_set, recipe=recipe, vae=vae)
    training_set, _ = g.add("MaskedLoRA_EncodeTrainingSet", (1040, 75), (320, 345), data_set=data_set, clip=clip, vae=vae, padding=padding)
    lora, loss, _ = g.add("MaskedLoRA_Train", (1040, 475), (320, 810), model=model, training_set=training_set, recipe=recipe, **TRAINING)
    g.add("MaskedLoRA_SaveLora", (1040, 1340), (320, 185), lora=lora, filename="quickstart")
    g.add("LossGraphNode", (1390, 75), (320, 340), loss=loss, filename_prefix="masked_lora/loss")
    g.add("MaskedLoRA_MeasureDrift", (1390, 470), (320, 270), model=model, lora=lora, training_set=training_set, recipe=recipe)
    adapted, trained_padding, _ = g.add("MaskedLoRA_ApplyLora", (1390, 795), (320, 190), model=model, lora=lora)
    sample(g, model, adapted, clip, vae, trained_padding)
    return g


def sample(g: Graph, model: Output, adapted: Output, clip: Output, vae: Output, trained_padding: Output) -> None:
    plain, = g.add("MaskedLoRA_TextPadding", (1770, 75), (240, 100), "ComfyUI's own padding", preset="comfyui")
    conds = {}
    for i, (padding, (title, text)) in enumerate(itertools.product((plain, trained_padding), PROMPTS.items())):
        words = "ComfyUI's padding" if padding is plain else "matched"
        conds[padding, title], = g.add("MaskedLoRA_TextEncode", (1770, 230 + 245 * i), (240, 190), f"{title}, {words}", clip=clip,
                                       text=text, padding=padding)
    latent, = g.add("EmptySD3LatentImage", (2040, 1240), (250, 140), width=128, height=128, batch_size=4)
    runs = (("before", model, plain), ("after, matched", adapted, trained_padding), ("after, other padding", adapted, plain))
    rows = {}
    for i, (words, source, padding) in enumerate(runs):
        sampled, = g.add("KSampler", (2040, 75 + 310 * i), (250, 262), f"KSampler: {words}", model=source, **SAMPLING,
                         positive=conds[padding, "pibo"], negative=conds[padding, "empty"], latent_image=latent)
        rows[f"rows.row{i}"], = g.add("VAEDecode", (2320, 75 + 110 * i), (290, 60), samples=sampled, vae=vae)
    grid, = g.add("MaskedLoRA_CompareGrid", (2320, 405), (290, 310), **rows,
                  labels="base model\nwith LoRA, as trained\nwith LoRA, other padding",
                  columns="seed 1, first\nsecond\nthird\nfourth")
    g.add("SaveImage", (2320, 770), (290, 400), images=grid, filename_prefix="masked_lora/grid")


FOLDER_NOTE = """## Masks from a folder

Pictures lie in one folder, masks of the same names in its sub-folder *masks*: **white = learn**. Name your own folder (inside
ComfyUI's input directory) in *Load Training Folder* and read its report: what is missing, what does not fit, what looks inverted.

- *Crop and Bucket Pictures* gives every picture a size that the model takes; mask and picture move together.
- A recipe is a chain: a preset, then steps. It is applied when training starts, so changing it encodes nothing again.
- *Preview Mask Weights* shows the weight that each latent cell gets, the most doubtful masks first.
- *Grow Mask for Latent Grid* shows thin parts (the antenna) that vanish between the cells, and how much growth keeps them.
- To train, connect data set and recipe to *Encode Training Set* and *Train Masked LoRA*, as the quickstart does."""


def folder_masks(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (680, 230), FOLDER_NOTE)
    g.group("Pictures and masks", 0, 280, 680, 980, BLUE)
    g.group("Recipe: from mask to weight", 700, 0, 340, 600, GREEN)
    g.group("Thin parts", 700, 620, 340, 640, YELLOW)
    g.group("What training will see", 1060, 0, 600, 1260, YELLOW)
    left, middle = Column(g, 20, 355, 300), Column(g, 360, 355, 300)
    vae = left.add("MaskedLoRA_DemoModel", 110)[2]
    loaded = left.add("MaskedLoRA_LoadFolder", 640, folder="demo", mask_source="folder")[0]
    data_set = middle.add("MaskedLoRA_Arrange", 600, data_set=loaded, vae=vae, size=128, shape="buckets", step=16)[0]
    masks = middle.add("MaskedLoRA_DataSetToLists", 175, data_set=data_set, count=1)[1]
    chain = Column(g, 720, 75, 300)
    preset, = chain.add("MaskedLoRA_MaskPreset", 100, preset="character (blissful-tuner guide)")
    grown, = chain.add("MaskedLoRA_MaskStep", 145, **{"recipe": preset, "step": "grow", "step.unit": "pixels", "step.unit.amount": 4.0})
    recipe, = chain.add("MaskedLoRA_MaskStep", 145, **{"recipe": grown, "step": "blur", "step.unit": "share", "step.unit.amount": 0.01})
    g.add("MaskedLoRA_GrowForLatentGrid", (720, 695), (300, 555), mask=masks, vae=vae)
    g.add("MaskedLoRA_PreviewMask", (1080, 75), (560, 1165), data_set=data_set, recipe=recipe, vae=vae)
    return g


ALPHA_NOTE = """## Masks from transparency

Cut-outs need no mask files: **opaque = white = learn**. Choose *alpha* as mask source. Under the transparency of a PNG there are
colours that nobody sees but the model would: *hidden_colours* (an advanced input of *Load Training Folder*) keeps them, fills them,
gives each picture another colour, or extends the edge of the subject (as here). The bundled cut-outs hide a loud magenta: set it to
*keep* and look at the pictures."""


def alpha_masks(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (680, 150), ALPHA_NOTE)
    g.group("Cut-outs", 0, 200, 680, 960, BLUE)
    g.group("Colours under the transparency", 700, 0, 420, 520, YELLOW)
    g.group("Encode for training", 700, 540, 420, 620, GREEN)
    g.group("What training will see", 1140, 0, 600, 1160, YELLOW)
    left, middle = Column(g, 20, 275, 300), Column(g, 360, 275, 300)
    _, clip, vae = left.add("MaskedLoRA_DemoModel", 110)
    loaded = left.add("MaskedLoRA_LoadFolder", 640, folder="demo cutouts", mask_source="alpha", hidden_colours="extend")[0]
    data_set = middle.add("MaskedLoRA_Arrange", 600, data_set=loaded, vae=vae, size=128, shape="buckets", step=16)[0]
    images = middle.add("MaskedLoRA_DataSetToLists", 175, data_set=data_set)[0]
    g.add("PreviewImage", (720, 75), (380, 420), images=images)
    right = Column(g, 720, 615, 380)
    padding, = right.add("MaskedLoRA_TextPadding", 100, preset="comfyui-mask")
    right.add("MaskedLoRA_EncodeTrainingSet", 350, data_set=data_set, clip=clip, vae=vae, padding=padding)
    g.add("MaskedLoRA_PreviewMask", (1160, 75), (560, 1065), data_set=data_set, vae=vae)
    return g


GRAPH_NOTE = """## Masks from any node

Whatever makes a MASK can say what is learned: SAM, BiRefNet, a colour, a mask that you draw. *Data Set to Lists* hands a folder's
pictures to those nodes, *Use Masks from the Graph* puts their masks back (**white = learn**). Here ComfyUI's own *Convert Image Color
to Mask* and *Grow Mask* stand in for a segmenter: they find the pibo's white eyes and make them its face."""


def graph_masks(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (680, 140), GRAPH_NOTE)
    g.group("Pictures", 0, 190, 340, 1050, BLUE)
    g.group("Any nodes that make masks", 360, 190, 320, 1050, GREEN)
    g.group("Masks back to the pictures", 700, 0, 340, 1240, BLUE)
    g.group("What training will see", 1060, 0, 580, 775, YELLOW)
    g.group("Encode for training", 1060, 795, 580, 445, GREEN)
    left, finder, back = Column(g, 20, 265, 300), Column(g, 380, 265, 280), Column(g, 720, 75, 300)
    _, clip, vae = left.add("MaskedLoRA_DemoModel", 110)
    loaded = left.add("MaskedLoRA_LoadFolder", 640, folder="demo", mask_source="none")[0]
    images, _, _, names = finder.add("MaskedLoRA_DataSetToLists", 175, data_set=loaded)
    eyes, = finder.add("ImageColorToMask", 110, image=images, color=0xFFFFFF)
    face, = finder.add("GrowMask", 110, mask=eyes, expand=8, tapered_corners=True)
    masked = back.add("MaskedLoRA_UseMasks", 250, data_set=loaded, masks=face, names=names)[0]
    data_set = back.add("MaskedLoRA_Arrange", 600, data_set=masked, vae=vae, **SQUARES)[0]
    g.add("MaskedLoRA_PreviewMask", (1080, 75), (540, 680), data_set=data_set, vae=vae)
    padding, = g.add("MaskedLoRA_TextPadding", (1080, 870), (210, 100), preset="comfyui-mask")
    g.add("MaskedLoRA_EncodeTrainingSet", (1320, 870), (300, 350), data_set=data_set, clip=clip, vae=vae, padding=padding)
    return g


VIDEO_NOTE = """## Masks for video

A clip is a folder of frames (*content: clips* in *Load Training Folder*) or a VIDEO from any node. It has one mask for all frames, or
one for each: **white = learn**. Masks are averaged over the frames that the model's VAE puts into one latent frame.

To train, connect the VAE, text encoders and model of a video model (WAN, HunyuanVideo) to *Crop and Bucket Pictures*, *Preview Mask
Weights*, *Encode Training Set* and *Train Masked LoRA*. The bundled demo model makes pictures only: here its VAE just tells *Crop
and Bucket Pictures* the size of a latent cell."""


def video_masks(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (680, 170), VIDEO_NOTE)
    g.group("Clips of a folder", 0, 220, 340, 980, BLUE)
    g.group("A clip out of a VIDEO", 360, 220, 320, 980, GREEN)
    g.group("Both as one data set", 700, 0, 340, 1200, BLUE)
    g.group("What training will see", 1060, 0, 600, 1200, YELLOW)
    left, film, both = Column(g, 20, 295, 300), Column(g, 380, 295, 280), Column(g, 720, 75, 300)
    vae = left.add("MaskedLoRA_DemoModel", 110)[2]
    loaded = left.add("MaskedLoRA_LoadFolder", 640, folder="demo clips", content="clips", mask_source="folder")[0]
    images, masks, captions, _ = film.add("MaskedLoRA_DataSetToLists", 175, data_set=loaded, count=1)
    video, = film.add("CreateVideo", 110, images=images, fps=8.0)
    from_video = film.add("MaskedLoRA_DataSetFromVideo", 480, videos=video, masks=masks, captions=captions)[0]
    sets = {"data_sets.data_set0": loaded, "data_sets.data_set1": from_video}
    combined = both.add("MaskedLoRA_CombineDataSets", 250, **sets)[0]
    data_set = both.add("MaskedLoRA_Arrange", 600, data_set=combined, vae=vae, **SQUARES)[0]
    g.add("MaskedLoRA_PreviewMask", (1080, 75), (560, 1105), data_set=data_set)
    return g


PRIOR_NOTE = """## Keep what is not learned

The same training twice, with the same pictures, steps and seed: once plain, once with *Prior Preservation*. **White = learn, black =
stay.** Without the prior the loss does not look at black parts, so they are free to change: stripes fade and spots of the frame
come through. With it they stay as the base model draws them, also for a caption that was not trained (the heart).

- *Measure LoRA Drift* says the same in numbers: compare *outside* of both, and *inside*, which should stay about the same.
- A larger weight keeps more and learns more slowly. It costs one more forward pass a step.
- It keeps what the training pictures show outside of their masks. The heart still turns into a pibo: no picture says otherwise."""


def prior(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (680, 260), PRIOR_NOTE)
    g.group("Model, pictures and masks", 0, 310, 680, 1505, BLUE)
    g.group("Train without prior", 700, 0, 340, 1815, GREEN)
    g.group("Train with prior", 1060, 0, 340, 1815, GREEN)
    g.group("Sample all three, same seeds", 1420, 0, 840, 1815, YELLOW)
    g.group("What stayed", 2280, 0, 620, 1815, YELLOW)
    left, right = Column(g, 20, 385, 300), Column(g, 360, 385, 300)
    model, clip, vae = left.add("MaskedLoRA_DemoModel", 110)
    loaded = left.add("MaskedLoRA_LoadFolder", 640, folder="demo", mask_source="folder")[0]
    data_set = right.add("MaskedLoRA_Arrange", 600, data_set=loaded, vae=vae, model=model, **SQUARES)[0]
    padding, = left.add("MaskedLoRA_TextPadding", 100, preset="comfyui-mask")
    recipe, = left.add("MaskedLoRA_MaskRecipe", 170, blur=0.01)
    training_set = right.add("MaskedLoRA_EncodeTrainingSet", 350, data_set=data_set, clip=clip, vae=vae, padding=padding)[0]
    settings = {"model": model, "training_set": training_set, "recipe": recipe}
    plain, trained_padding = train_twin(g, 720, "without_prior", settings)
    kept, _ = train_twin(g, 1080, "with_prior", settings, weight=0.5)
    sample_twins(g, {"base model": model, "without prior": plain, "with prior": kept}, clip, vae, trained_padding)
    return g


def train_twin(g: Graph, x: int, name: str, settings: dict[str, Output], weight: float = 0.0) -> list[Output]:
    column = Column(g, x, 75, 300)
    more = {"prior": column.add("MaskedLoRA_Prior", 180, weight=weight)[0]} if weight else {}
    lora = column.add("MaskedLoRA_Train", 815, **settings, **more, **TRAINING | {"name": name})[0]
    column.add("MaskedLoRA_MeasureDrift", 270, **settings, lora=lora)
    return column.add("MaskedLoRA_ApplyLora", 190, model=settings["model"], lora=lora)[:2]


def sample_twins(g: Graph, models: dict[str, Output], clip: Output, vae: Output, padding: Output) -> None:
    """One row for each caption and model, all under the padding of the training."""
    texts, seen = Column(g, 1440, 75, 240), Column(g, 2300, 75, 580)
    conds = {words: texts.add("MaskedLoRA_TextEncode", 190, words, clip=clip, text=text, padding=padding)[0]
             for words, text in {**PROMPTS, "heart": HEART}.items()}
    latent, = texts.add("EmptySD3LatentImage", 140, width=128, height=128, batch_size=4)
    rows, labels = {}, []
    for words, x in (("pibo", 1710), ("heart", 1990)):
        column = Column(g, x, 75, 250)
        settings = {**SAMPLING, "positive": conds[words], "negative": conds["empty"], "latent_image": latent}
        sampled = [column.add("KSampler", 262, f"KSampler: {words}, {version}", model=model, **settings)[0]
                   for version, model in models.items()]
        for version, samples in zip(models, sampled, strict=True):
            rows[f"rows.row{len(rows)}"], = column.add("VAEDecode", 60, samples=samples, vae=vae)
            labels.append(f"{words}: {version}")
    grid, = seen.add("MaskedLoRA_CompareGrid", 420, **rows, labels="\n".join(labels), columns="seed 1, first\nsecond\nthird\nfourth")
    seen.add("SaveImage", 1090, images=grid, filename_prefix="masked_lora/prior")


GRAPHS = {"quickstart": quickstart, "masks_from_folder": folder_masks, "masks_from_alpha": alpha_masks, "masks_from_graph": graph_masks,
          "masks_for_video": video_masks, "prior_preservation": prior, "automatic_masks": automatic, "body_part_masks": body_parts,
          "masks_from_words": by_words, "verify_lora": verify, "padding_study": padding_study,
          "resume": resume, "warm_start": warm_start, "sdxl_as_flow_matching": sdxl_flow, "video": video}

if __name__ == "__main__":
    answer = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for workflow_name, build in GRAPHS.items():
        build(answer).save(WORKFLOWS / f"{workflow_name}.json")
