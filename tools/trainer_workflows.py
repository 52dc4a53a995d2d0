"""The workflows about training runs, for build_workflows.py: resume and warm start with the demo model, SDXL and WAN with files."""
from __future__ import annotations

from typing import Any

from workflow_graph import BLUE, GREEN, HEART, PROMPTS, SAMPLING, SQUARES, TRAINING, YELLOW, Column, Graph, Output

RESUME_NOTE = """## Stop a training, and go on another day

1. **Run**. After step 100 press **Cancel** (the cross of the queue), close ComfyUI, or let the power fail.
2. **Run** again: training goes on from the last checkpoint and ends as if it had never been stopped. *Train Masked LoRA* says
   *resumed at step ...*. To train longer than planned, raise its *steps*.

The *name* in *Train Masked LoRA* names the run: another name is a new run. What is kept lies in ComfyUI's output folder:

- **Checkpoints**: the whole state in *masked_lora*, and beside each a LoRA to try in *loras*.
- **Previews**: pictures with the same seed while it learns, shown on the node that trains.
- **Validation**: the error on held-out pictures. When it rises, stop: the LoRA learns its pictures by heart.
- **Logs**: a table of all steps, TensorBoard files, and a plot with every checkpoint in it."""


def resume(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (680, 260), RESUME_NOTE)
    g.group("Model, pictures and masks", 0, 310, 680, 1480, BLUE)
    g.group("Held-out pictures", 700, 0, 340, 1790, BLUE)
    g.group("What is kept and watched", 1060, 0, 360, 1790, YELLOW)
    g.group("Train", 1440, 0, 760, 1790, GREEN)
    left, right, held_out = Column(g, 20, 385, 300), Column(g, 360, 385, 300), Column(g, 720, 75, 300)
    model, clip, vae = left.add("MaskedLoRA_DemoModel", 110)
    loaded = left.add("MaskedLoRA_LoadFolder", 640, folder="demo", mask_source="folder")[0]
    padding, = left.add("MaskedLoRA_TextPadding", 100, preset="comfyui-mask")
    recipe, = left.add("MaskedLoRA_MaskRecipe", 170, blur=0.01)
    data_set = right.add("MaskedLoRA_Arrange", 600, data_set=loaded, vae=vae, model=model, **SQUARES)[0]
    encoders = {"clip": clip, "vae": vae, "padding": padding}
    training_set = right.add("MaskedLoRA_EncodeTrainingSet", 350, data_set=data_set, **encoders)[0]
    others = held_out.add("MaskedLoRA_LoadFolder", 640, folder="demo cutouts", mask_source="alpha", hidden_colours="fill")[0]
    arranged = held_out.add("MaskedLoRA_Arrange", 600, data_set=others, vae=vae, model=model, size=128, shape="buckets", step=16)[0]
    validation_set = held_out.add("MaskedLoRA_EncodeTrainingSet", 350, data_set=arranged, **encoders)[0]
    watched = watch(Column(g, 1080, 75, 320), clip, vae, validation_set)
    lora, loss, _ = g.add("MaskedLoRA_Train", (1460, 75), (340, 1100), model=model, training_set=training_set, recipe=recipe, **watched,
                          **TRAINING | {"name": "resume"})
    g.add("MaskedLoRA_SaveLora", (1460, 1230), (340, 185), lora=lora, filename="resume")
    g.add("LossGraphNode", (1840, 75), (340, 340), loss=loss, filename_prefix="masked_lora/resume_loss")
    g.add("MaskedLoRA_PreviewMask", (1840, 470), (340, 945), data_set=data_set, recipe=recipe, vae=vae)
    return g


def watch(column: Column, clip: Output, vae: Output, validation_set: Output) -> dict[str, Output]:
    every = {"every": 100}
    return {
        "checkpoints": column.add("MaskedLoRA_Checkpoints", 140, **every)[0],
        "previews": column.add("MaskedLoRA_Previews", 560, clip=clip, vae=vae, prompts=f"{PROMPTS['pibo']}\n{HEART}", negative="",
                               width=128, height=128, **every)[0],
        "validation": column.add("MaskedLoRA_Validation", 210, training_set=validation_set, **every)[0],
        "logs": column.add("MaskedLoRA_Logs", 145)[0],
    }


WARM_NOTE = """## Start from a LoRA that is there

1. **Run**. *A first LoRA* is trained and saved as *loras/warm_start_first_00001*. *Go on from it* starts from nothing for now.
2. Press **R**: the file appears in *LoRA Settings*. Choose it in **start_from** and **Run** again; only the second part is done again.
   Its loss begins where the first one ended.

For your own LoRA leave the first part out. Any file that ComfyUI loads on this model will do: of this pack, kohya's sd-scripts,
diffusers or LyCORIS; *kind* has to be that of the file. It keeps its own rank and alpha. Everything else may be new: pictures, masks,
captions, learning rate, optimizer. To go on with a run that was stopped, use *Checkpoints and Resume* instead."""


def warm_start(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (680, 260), WARM_NOTE)
    g.group("Model, pictures and masks", 0, 310, 680, 1270, BLUE)
    g.group("A first LoRA", 700, 0, 340, 1580, GREEN)
    g.group("Go on from it", 1060, 0, 680, 1580, GREEN)
    g.group("Sample all three, same seeds", 1760, 0, 940, 1580, YELLOW)
    left, right = Column(g, 20, 385, 300), Column(g, 360, 385, 300)
    model, clip, vae = left.add("MaskedLoRA_DemoModel", 110)
    loaded = left.add("MaskedLoRA_LoadFolder", 640, folder="demo", mask_source="folder")[0]
    padding, = left.add("MaskedLoRA_TextPadding", 100, preset="comfyui-mask")
    recipe, = left.add("MaskedLoRA_MaskRecipe", 170, blur=0.01)
    data_set = right.add("MaskedLoRA_Arrange", 600, data_set=loaded, vae=vae, model=model, **SQUARES)[0]
    training_set = right.add("MaskedLoRA_EncodeTrainingSet", 350, data_set=data_set, clip=clip, vae=vae, padding=padding)[0]
    inputs = {"model": model, "training_set": training_set, "recipe": recipe}
    first, second, settings = Column(g, 720, 75, 300), Column(g, 1080, 75, 300), Column(g, 1420, 75, 300)
    start = first.add("MaskedLoRA_Train", 1000, **inputs, **TRAINING | {"steps": 150, "name": "warm_start_first"})[0]
    first.add("MaskedLoRA_SaveLora", 185, lora=start, filename="warm_start_first")
    adapter, = settings.add("MaskedLoRA_Adapter", 420, model=model, rank=8, alpha=8.0, start_from="none")
    chosen = TRAINING | {"steps": 250, "learning_rate": 1e-3, "seed": 1, "name": "warm_start"}
    end, loss, _ = second.add("MaskedLoRA_Train", 1000, **inputs, adapter=adapter, **chosen)
    second.add("MaskedLoRA_SaveLora", 185, lora=end, filename="warm_start")
    settings.add("LossGraphNode", 340, loss=loss, filename_prefix="masked_lora/warm_start_loss")
    sample_three(g, model, [start, end], clip, vae)
    return g


def sample_three(g: Graph, model: Output, loras: list[Output], clip: Output, vae: Output) -> None:
    texts, samplers, seen = Column(g, 1780, 75, 260), Column(g, 2070, 75, 250), Column(g, 2350, 75, 330)
    applied = [texts.add("MaskedLoRA_ApplyLora", 190, model=model, lora=lora)[:2] for lora in loras]
    conds = {words: texts.add("MaskedLoRA_TextEncode", 190, words, clip=clip, text=text, padding=applied[0][1])[0]
             for words, text in PROMPTS.items()}
    latent, = texts.add("EmptySD3LatentImage", 140, width=128, height=128, batch_size=4)
    rows = {}
    for words, source in {"base model": model, "first LoRA": applied[0][0], "second LoRA": applied[1][0]}.items():
        samples, = samplers.add("KSampler", 262, f"KSampler: {words}", model=source, positive=conds["pibo"], negative=conds["empty"],
                                latent_image=latent, **SAMPLING)
        rows[f"rows.row{len(rows)}"], = samplers.add("VAEDecode", 60, samples=samples, vae=vae)
    grid, = seen.add("MaskedLoRA_CompareGrid", 310, **rows, labels="base model\nfirst LoRA\nsecond LoRA",
                     columns="seed 1, first\nsecond\nthird\nfourth")
    seen.add("SaveImage", 460, images=grid, filename_prefix="masked_lora/warm_start")


FLOW_NOTE = """## An SDXL that was turned into a flow model

For checkpoints like **bigASP 2.5**: SDXL's network, trained to flow matching. **ModelSamplingSD3** tells ComfyUI so, and *Train Masked
LoRA* reads it from the model: training and sampling follow the same model sampling. For an ordinary SDXL (eps or v prediction)
take that node out and set *Noise Levels* to *uniform*, shift 1.

1. Choose the checkpoint in *Load Checkpoint*, name a folder inside ComfyUI's input directory in *Load Training Folder* (the bundled
   *demo* pictures only show that it runs), write its trigger word into the prompt.
2. Look at **Preview Mask Weights**: white = learn. **Run**.

The recipe is that of the checkpoint's training: logit-normal noise levels with shift 3, AdamW with weight decay 0.1, warm-up, then
cosine to 0. Sample with Euler, CFG 2 to 5 and shift 3 to 6. *Text Padding* stays on *comfyui*: the others are for T5."""


def sdxl_flow(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (680, 240), FLOW_NOTE)
    g.group("Model, pictures and masks", 0, 290, 680, 1325, BLUE)
    g.group("What training will see", 700, 0, 580, 1615, YELLOW)
    g.group("Train", 1300, 0, 720, 1615, GREEN)
    g.group("Sample before and after, same seed", 2040, 0, 940, 1615, YELLOW)
    left, right = Column(g, 20, 365, 320), Column(g, 360, 365, 300)
    loaded_model, clip, vae = left.add("CheckpointLoaderSimple", 105, ckpt_name="bigASP_v2.5.safetensors")
    model, = left.add("ModelSamplingSD3", 60, model=loaded_model, shift=3.0)
    loaded = left.add("MaskedLoRA_LoadFolder", 640, folder="demo")[0]
    padding, = left.add("MaskedLoRA_TextPadding", 100, preset="comfyui")
    data_set = right.add("MaskedLoRA_Arrange", 600, data_set=loaded, vae=vae, model=model, size=1024, shape="buckets", step=64)[0]
    training_set = right.add("MaskedLoRA_EncodeTrainingSet", 350, data_set=data_set, clip=clip, vae=vae, padding=padding)[0]
    recipe, = right.add("MaskedLoRA_MaskRecipe", 170, blur=0.01)
    g.add("MaskedLoRA_PreviewMask", (720, 75), (540, 1525), data_set=data_set, recipe=recipe, vae=vae)
    options, training = Column(g, 1320, 75, 320), Column(g, 1680, 75, 320)
    noise, = options.add("MaskedLoRA_Noise", 360, distribution="logit-normal", shift=3.0)
    moved = {"optimizer.weight_decay": 0.1, "schedule": "cosine", "warmup": 100}
    optimizer, = options.add("MaskedLoRA_Optimizer", 250, **moved)
    lora, loss, _ = training.add("MaskedLoRA_Train", 1100, model=model, training_set=training_set, recipe=recipe, noise_levels=noise,
                                 optimizer=optimizer, **LARGE, batch_size=4, name="sdxl_flow")
    options.add("LossGraphNode", 340, loss=loss, filename_prefix="masked_lora/sdxl_flow_loss")
    training.add("MaskedLoRA_SaveLora", 185, lora=lora, filename="sdxl_flow")
    sample_pair(g, model, lora, clip, vae)
    return g


def sample_pair(g: Graph, model: Output, lora: Output, clip: Output, vae: Output) -> None:
    texts, samplers, seen = Column(g, 2060, 75, 280), Column(g, 2370, 75, 250), Column(g, 2650, 75, 310)
    adapted, padding, _ = texts.add("MaskedLoRA_ApplyLora", 210, model=model, lora=lora)
    wanted, = texts.add("MaskedLoRA_TextEncode", 190, "prompt", clip=clip, text="a pibo on a beach, photo", padding=padding)
    unwanted, = texts.add("MaskedLoRA_TextEncode", 190, "negative prompt", clip=clip, text="low quality, blurry", padding=padding)
    latent, = texts.add("EmptyLatentImage", 140, width=1024, height=1024, batch_size=1)
    rows = {}
    for words, source in {"before": model, "after": adapted}.items():
        samples, = samplers.add("KSampler", 262, f"KSampler: {words}", model=source, positive=wanted, negative=unwanted,
                                latent_image=latent, **SAMPLING | {"steps": 30, "cfg": 4.0})
        rows[f"rows.row{len(rows)}"], = samplers.add("VAEDecode", 60, samples=samples, vae=vae)
    grid, = seen.add("MaskedLoRA_CompareGrid", 310, **rows, labels="before\nwith LoRA")
    seen.add("SaveImage", 600, images=grid, filename_prefix="masked_lora/sdxl_flow")


VIDEO_NOTE = """## A LoRA for a video model, with masks

1. Choose the files of **WAN 2.1** (text to video) in the three loaders.
2. A clip is a folder of frames inside your folder, its mask *masks/<clip>.png* or one for each frame in *masks/<clip>/*, its caption
   *<clip>.txt*; **white = learn**. Name your folder in *Load Training Folder*; the bundled *demo clips* only show that it runs.
3. Look at **Preview Mask Weights**: masks are averaged over the frames that the VAE puts into one latent frame. **Run**.

Clips of 4n + 1 frames (17, 33, 49) are used whole, of others the last frames are left out. Longer and larger clips take more memory:
*gradient_checkpointing* stays on, *size* 512 is enough for motion. *Text Padding* stays on *comfyui*: the others are for Flux and
Chroma."""


def video(schemas: dict[str, Any]) -> Graph:
    g = Graph(schemas)
    g.note((0, 30), (680, 240), VIDEO_NOTE)
    g.group("Model, clips and masks", 0, 290, 680, 1325, BLUE)
    g.group("What training will see", 700, 0, 580, 1615, YELLOW)
    g.group("Train", 1300, 0, 720, 1615, GREEN)
    g.group("Sample a clip", 2040, 0, 960, 1615, YELLOW)
    left, right = Column(g, 20, 365, 320), Column(g, 360, 365, 300)
    model, = left.add("UNETLoader", 90, unet_name="wan2.1_t2v_1.3B_fp16.safetensors")
    clip, = left.add("CLIPLoader", 114, clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan")
    vae, = left.add("VAELoader", 60, vae_name="wan_2.1_vae.safetensors")
    loaded = left.add("MaskedLoRA_LoadFolder", 640, folder="demo clips", content="clips")[0]
    padding, = left.add("MaskedLoRA_TextPadding", 100, preset="comfyui")
    data_set = right.add("MaskedLoRA_Arrange", 600, data_set=loaded, vae=vae, model=model, size=512, shape="buckets", step=32)[0]
    training_set = right.add("MaskedLoRA_EncodeTrainingSet", 350, data_set=data_set, clip=clip, vae=vae, padding=padding)[0]
    recipe, = right.add("MaskedLoRA_MaskRecipe", 170, blur=0.01)
    g.add("MaskedLoRA_PreviewMask", (720, 75), (540, 1525), data_set=data_set, recipe=recipe, vae=vae)
    options, training = Column(g, 1320, 75, 320), Column(g, 1680, 75, 320)
    noise, = options.add("MaskedLoRA_Noise", 360, distribution="logit-normal", shift=3.0)
    lora, loss, _ = training.add("MaskedLoRA_Train", 1100, model=model, training_set=training_set, recipe=recipe, noise_levels=noise,
                                 **LARGE, batch_size=1, name="video")
    options.add("LossGraphNode", 340, loss=loss, filename_prefix="masked_lora/video_loss")
    training.add("MaskedLoRA_SaveLora", 185, lora=lora, filename="video")
    sample_clip(g, model, lora, clip, vae)
    return g


def sample_clip(g: Graph, model: Output, lora: Output, clip: Output, vae: Output) -> None:
    texts, samplers, seen = Column(g, 2060, 75, 280), Column(g, 2370, 75, 250), Column(g, 2650, 75, 330)
    adapted, padding, _ = texts.add("MaskedLoRA_ApplyLora", 210, model=model, lora=lora)
    wanted, = texts.add("MaskedLoRA_TextEncode", 190, "prompt", clip=clip, text="a pibo walks along a beach", padding=padding)
    unwanted, = texts.add("MaskedLoRA_TextEncode", 190, "negative prompt", clip=clip, text="static, blurry, low quality", padding=padding)
    latent, = texts.add("EmptyHunyuanLatentVideo", 160, width=832, height=480, length=33, batch_size=1)
    samples, = samplers.add("KSampler", 262, model=adapted, positive=wanted, negative=unwanted, latent_image=latent,
                            **SAMPLING | {"steps": 30, "cfg": 6.0, "sampler_name": "uni_pc"})
    frames, = samplers.add("VAEDecode", 60, samples=samples, vae=vae)
    clip_of_frames, = samplers.add("CreateVideo", 130, images=frames, fps=16.0)
    seen.add("SaveVideo", 600, video=clip_of_frames, filename_prefix="masked_lora/video")


# Of models with billions of weights.
LARGE = {"steps": 2000, "learning_rate": 1e-4, "rank": 32, "alpha": 32.0, "normalization": "step", "gradient_checkpointing": True,
         "seed": 0}
