"""What a run is about to learn, in words, before the first step."""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_management

from ..dataset.cache import CachedExample, ExampleRef
from ..dataset.words import counted
from ..masks.recipe import MaskRecipe
from ..trainer.adapter_spec import AdapterSpec
from ..trainer.config import ErrorKind, TrainConfig
from .captions import captions_said
from .examples import Examples
from .references import beside, describe
from .training import training_memory

if TYPE_CHECKING:
    from .run import ActiveRun

SHOWN = 6  # kinds of batches
# Of an optimizer's state for one float32 value that is trained; others have two of four bytes, as Adam. From their code.
STATE_BYTES = {"sgd": 4, "adafactor": 0, "adamw8bit": 2, "prodigy": 16}


@dataclass(frozen=True, slots=True)
class Weights:
    """What the masks of a set, after the recipe, leave to learn. coverage: mean weight of all latent cells, each picture alike."""

    pictures: int
    with_mask: int
    black: int
    coverage: float
    regularisation: int


def look_at_weights(examples: Examples, recipe: MaskRecipe) -> Weights:
    """Raises ValueError where nothing would be learned."""
    means = [weight_1HW.double().mean().item() for weight_1HW in examples.weights()]
    black = means.count(0.0)
    if black == len(means):
        raise ValueError(f"every mask is black after the recipe ({recipe.describe()}), so nothing would be learned; white = learn: "
                         "switch 'invert' in the mask recipe, or raise its floor")
    masked = sum((e.mask_key if isinstance(e, ExampleRef) else e.mask_THW) is not None for e in examples.outline)
    return Weights(len(means), masked, black, sum(means) / len(means), sum(e.regularisation for e in examples.outline))


def summary(run: ActiveRun, seen: Weights) -> str:
    """One line for each thing that a person may want to have known before a long run."""
    train, record = run.config.train, run.record
    shown = describe(run.training_set, record.architecture)
    lines = {
        "pictures": pictures(seen),
        **({"reference pictures": shown} if shown else {}),
        "masks": f"white = learn; mean weight {100 * seen.coverage:.1f} %; recipe: {run.config.recipe.describe()}",
        "loss": loss(train),
        "noise": train.noise.describe(),
        "captions": captions_said(run.examples.outline, train.caption_dropout),
        "text padding": record.padding.describe(),
        "batches": batches(run),
        "trained": trained(run),
        "steps": steps(run),
        "memory": memory(run),
    }
    return "\n".join([f"{run.config.name!r} will be trained on {record.architecture}", *(f"  {k}: {said}" for k, said in lines.items())])


def pictures(seen: Weights) -> str:
    return (f"{seen.pictures}, {seen.with_mask} with a mask and {seen.pictures - seen.with_mask} without, which are learned everywhere"
            + (f"; {seen.black} all black and therefore not learned" if seen.black else "")
            + (f"; {seen.regularisation} for regularisation" if seen.regularisation else ""))


def loss(train: TrainConfig) -> str:
    said = [f"{train.loss.error.value}, normalized per {train.normalization.value}"]
    if train.loss.error in (ErrorKind.HUBER, ErrorKind.SMOOTH_L1):
        said.append(f"delta {train.loss.delta:g}")
    if train.loss.weighting.value != "none":
        said.append(f"noise levels weighted by {train.loss.weighting.value}")
    if train.loss.damping:
        said.append(f"small masks damped by {train.loss.damping:g}")
    if train.mask.probability < 1:
        said.append(f"masks apply to {100 * train.mask.probability:g} % of draws")
    if train.mask.threshold is not None:
        said.append(f"masks are all or nothing at {train.mask.threshold:g}")
    if train.mask.level_cap < 1:
        said.append(f"masked pictures see noise up to {train.mask.level_cap:g}")
    prior = f"plus {train.prior.weight:g} times the change outside the masks" if train.prior.weight else "no prior preservation"
    return ", ".join([*said, prior])


def batches(run: ActiveRun) -> str:
    """What can share a forward pass: examples of one latent size and one text length."""
    kinds = Counter((shape[1:], tokens(example), references) for shape, example, references in
                    zip(run.training_set.latent_shapes(), run.examples.outline, run.training_set.reference_shapes(), strict=True))
    said = [f"{count} of {'x'.join(map(str, reversed(cells)))} latent cells and {counted(length, 'token')}{beside(references)}"
            for (cells, length, references), count in kinds.most_common(SHOWN)]
    more = f" and {counted(len(kinds) - SHOWN, 'more kind')}" if len(kinds) > SHOWN else ""
    return f"{counted(len(kinds), 'kind')}: " + ", ".join(said) + more


def tokens(example: CachedExample | ExampleRef) -> int:
    if isinstance(example, ExampleRef):
        return example.text_tokens
    return example.cond["cross_attn"].shape[1] if "cross_attn" in example.cond else 0


def trained(run: ActiveRun) -> str:
    parameters, spec = sum(p.numel() for p in run.state.parameters), AdapterSpec.of(run.config.lora)
    train = run.config.train
    beside = f", and of the text encoders {run.text.spec.describe()}, {len(run.text.adapter.layers)} layers" if run.text else ""
    return (f"{spec.describe()} on {len(run.adapter.layers)} layers{beside}, {parameters:,} parameters; {train.optimization().describe()}, "
            f"rate {train.learning_rate:g}")


def steps(run: ActiveRun) -> str:
    train, epoch = run.config.train, run.examples.epoch()
    drawn = train.steps * train.batch_size / (2 if epoch.regularisation else 1)  # regularisation takes every second draw
    passes = f", at most {train.micro_batch} in a forward pass" if 0 < train.micro_batch < train.batch_size else ""
    return (f"{train.steps} of {counted(train.batch_size, 'picture')}{passes}, {drawn / len(epoch.examples):.3g} epochs of "
            f"{len(epoch.examples)}; seed {train.seed}; the time left is told from the first step on")


def memory(run: ActiveRun) -> str:
    """An estimate in GB. ComfyUI unloads VAE and text encoders where their room is needed, but for text encoders that are trained."""
    train, values = run.config.train, sum(p.numel() for p in run.state.parameters)
    state = STATE_BYTES.get(train.optimizer.name, 8) + (4 if train.ema else 0)
    parts = {"model": run.patcher.model_size(), "adapter and gradients": 8 * values, "optimizer": state * values,
             "activations": training_memory(run.patcher, run.training_set, train)}
    others = "VAE and text encoders are unloaded where their"
    if run.text:
        parts["text encoders"], others = run.text.clip.patcher.model_size(), "the VAE is unloaded where its"
    said = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts.items())
    how = "computed twice, so less than that" if run.config.checkpointing else "several times that without gradient checkpointing"
    device = run.adapter.parameters[0].device
    return (f"{said} (ComfyUI's number for sampling; {how}); {gigabytes(comfy.model_management.get_free_memory(device))} free on {device} "
            f"now; {others} room is needed")


def gigabytes(size: float) -> str:
    return f"{size / 2**30:.2f} GB" if size >= 2**27 else f"{size / 2**20:.1f} MB"
