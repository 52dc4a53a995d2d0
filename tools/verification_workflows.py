"""The workflows that look at LoRAs, for build_workflows.py: verification, and the study of text padding, with the demo model."""
from __future__ import annotations

from typing import Any

from workflow_graph import BLUE, GREEN, HEART, PROMPTS, SAMPLING, SQUARES, TRAINING, YELLOW, Column, Graph

VERIFY_NOTE = """## What did the LoRA learn, and what did it change beside it?

A short training of the demo model, then four looks at its LoRA. All but the training work on any model and any LoRA: put your loaders
in place of *Demo Model (Pico Flux)*, and *Load LoRA (matched)*, which has a *lora* output, in place of *Train Masked LoRA*.

- **Compare LoRA**: the same seeds by base model and LoRA, with the trigger word and without. Without it little should move.
  Here much does: hearts turn into pibos, which a training without *Prior Preservation* on hearts does not prevent.
- **Drift Map**: where the model's predictions change, over each training picture; the line is the mask's border, **white = learn**.
- **Bleed Score**: how much of the change in pictures lies outside of a mask, here a square around the subject. 0 is best.
- **LoRA Grid**: the run's checkpoints at several strengths. *loras* names the run; the connected LoRA is the last row.

Text is padded as the LoRA was trained with; connect *padding* to see it under another one."""


def verify(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (680, 330), VERIFY_NOTE)
    g.group("Model, pictures and masks", 0, 380, 680, 1490, BLUE)
    g.group("Train, with checkpoints", 700, 0, 340, 1870, GREEN)
    g.group("Base model against LoRA", 1060, 0, 620, 1870, YELLOW)
    g.group("Where it changes", 1700, 0, 620, 1870, YELLOW)
    g.group("Checkpoints and strengths", 2340, 0, 620, 1870, YELLOW)
    left, right, training = Column(g, 20, 455, 300), Column(g, 360, 455, 300), Column(g, 720, 75, 300)
    model, clip, vae = left.add("MaskedLoRA_DemoModel", 110)
    loaded = left.add("MaskedLoRA_LoadFolder", 640, folder="demo", mask_source="folder")[0]
    recipe, = left.add("MaskedLoRA_MaskRecipe", 170, blur=0.01)
    padding, = left.add("MaskedLoRA_TextPadding", 100, preset="comfyui-mask")
    data_set = right.add("MaskedLoRA_Arrange", 600, data_set=loaded, vae=vae, model=model, **SQUARES)[0]
    training_set = right.add("MaskedLoRA_EncodeTrainingSet", 350, data_set=data_set, clip=clip, vae=vae, padding=padding)[0]
    checkpoints, = training.add("MaskedLoRA_Checkpoints", 130, every=100, keep=4, resume="never")
    lora = training.add("MaskedLoRA_Train", 850, model=model, training_set=training_set, recipe=recipe, checkpoints=checkpoints,
                        **TRAINING | {"name": "verify"})[0]
    sampled = {"model": model, "lora": lora, "clip": clip, "vae": vae, "width": 128, "height": 128}
    _, _, _, base, changed, _, _ = g.add("MaskedLoRA_CompareLora", (1080, 75), (580, 1775), **sampled, with_trigger=PROMPTS["pibo"],
                                         without_trigger=HEART)
    g.add("MaskedLoRA_DriftMap", (1720, 75), (580, 1215), model=model, lora=lora, training_set=training_set, vae=vae, recipe=recipe, most=6)
    black, = g.add("SolidMask", (1720, 1350), (270, 110), "black", value=0.0, width=128, height=128)
    white, = g.add("SolidMask", (1720, 1520), (270, 110), "white square", value=1.0, width=72, height=72)
    middle, = g.add("MaskComposite", (1720, 1690), (270, 130), destination=black, source=white, x=28, y=28, operation="add")
    g.add("MaskedLoRA_BleedScore", (2020, 1350), (280, 470), base=base, changed=changed, mask=middle)
    g.add("MaskedLoRA_LoraGrid", (2360, 75), (580, 1775), **sampled, loras="verify", strengths="0.5, 0.75, 1", prompt=PROMPTS["pibo"])
    return g


PADDING_NOTE = """## Train and sample under the same text padding

T5 prompts are padded to 256 tokens. Trainers differ in what the model sees of that padding, and a LoRA remembers. Here the same
LoRA is trained three times, with the same pictures, steps and seed: padding attended as Flux was released (**none**), set to zero
(**zero**), and hidden (**mask**). Each is then sampled under all three. **White = learn** in the masks.

- Rows of the grid: how it was trained. Columns: how it was sampled. On the diagonal both match.
- *Apply Trained LoRA (matched)* hands on the padding of the training. Connect it to *Text Encode* and no mismatch can happen; here the
  text is encoded three times on purpose.
- Hidden padding is not read at all, so that training is the quickest. One picture proves little: numbers over several seeds, and the
  command that makes them, are in *docs/padding_study.md* of the pack."""
REGIMES = {"none": "comfyui", "zero": "comfyui-zero", "mask": "comfyui-mask"}


def padding_study(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (680, 310), PADDING_NOTE)
    g.group("Model, pictures and masks", 0, 360, 680, 1380, BLUE)
    g.group("One prompt under three paddings", 700, 0, 620, 1740, BLUE)
    left, right = Column(g, 20, 435, 300), Column(g, 360, 435, 300)
    model, clip, vae = left.add("MaskedLoRA_DemoModel", 110)
    loaded = left.add("MaskedLoRA_LoadFolder", 640, folder="demo", mask_source="folder")[0]
    data_set = right.add("MaskedLoRA_Arrange", 600, data_set=loaded, vae=vae, model=model, **SQUARES)[0]
    recipe, = right.add("MaskedLoRA_MaskRecipe", 170, blur=0.01)
    latent, = left.add("EmptySD3LatentImage", 140, width=128, height=128, batch_size=1)
    paddings, prompts, empties = Column(g, 720, 75, 270), Column(g, 720, 560, 270), Column(g, 1030, 75, 270)
    regimes, conds = {}, {}
    for name, preset in REGIMES.items():
        regimes[name], = paddings.add("MaskedLoRA_TextPadding", 100, name, preset=preset)
    for words, column in (("pibo", prompts), ("empty", empties)):
        for name, padding in regimes.items():
            conds[words, name], = column.add("MaskedLoRA_TextEncode", 190, f"{words}, sampled {name}", clip=clip, text=PROMPTS[words],
                                             padding=padding)
    rows = {}
    for i, (name, padding) in enumerate(regimes.items()):
        x = 1340 + 640 * i
        g.group(f"Trained {name}, sampled three ways", x, 0, 620, 1740, GREEN)
        train, draw = Column(g, x + 20, 75, 300), Column(g, x + 350, 75, 250)
        training_set = train.add("MaskedLoRA_EncodeTrainingSet", 350, data_set=data_set, clip=clip, vae=vae, padding=padding)[0]
        settings = TRAINING | {"steps": 120, "name": f"padding_{name}"}
        lora = train.add("MaskedLoRA_Train", 815, model=model, training_set=training_set, recipe=recipe, **settings)[0]
        adapted = train.add("MaskedLoRA_ApplyLora", 190, model=model, lora=lora)[0]
        samples = [draw.add("KSampler", 420, f"KSampler: {name}, sampled {way}", **SAMPLING, model=adapted, latent_image=latent,
                            positive=conds["pibo", way], negative=conds["empty", way])[0] for way in regimes]
        together, = draw.add("BatchLatentsNode", 100, **{f"latents.latent{n}": sample for n, sample in enumerate(samples)})
        rows[f"rows.row{i}"], = draw.add("VAEDecode", 60, samples=together, vae=vae)
    g.group("Rows: trained, columns: sampled", 1340 + 640 * 3, 0, 640, 1740, YELLOW)
    seen = Column(g, 1340 + 640 * 3 + 20, 75, 600)
    grid, = seen.add("MaskedLoRA_CompareGrid", 310, **rows, labels="\n".join(f"trained {name}" for name in REGIMES),
                     columns="\n".join(f"sampled {name}" for name in REGIMES))
    seen.add("SaveImage", 1000, images=grid, filename_prefix="masked_lora/padding_study")
    return g
