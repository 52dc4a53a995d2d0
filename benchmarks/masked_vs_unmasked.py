"""What the masks of the quickstart are worth: the same training with and without them, same seed, on the demo model.

The run without masks gives every pixel the weight one (a recipe with floor 1); both are then measured inside and outside the
masks. Ends with one JSON line {"masked": {...}, "unmasked": {...}} of drift and loss, for the README.
"""
from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import _pack

_pack.load()

import torch  # noqa: E402
from pack.dataset.buckets import Arrangement, arrange  # noqa: E402
from pack.dataset.cache import TrainingSet  # noqa: E402
from pack.dataset.load import load_mask  # noqa: E402
from pack.dataset.scan import FolderSpec, scan_folder  # noqa: E402
from pack.host.demo_model import load_autoencoder, load_diffusion_model, load_text_encoders  # noqa: E402
from pack.host.drift import measure_drift  # noqa: E402
from pack.host.encode import encode_data_set  # noqa: E402
from pack.host.folders import DEMO_MODEL, PACK_ROOT  # noqa: E402
from pack.host.progress import Progress  # noqa: E402
from pack.host.run import RunConfig, run_training  # noqa: E402
from pack.host.text_padding import PRESETS  # noqa: E402
from pack.masks.recipe import MaskRecipe, simple_recipe  # noqa: E402
from pack.trainer.config import LoraSpec, TrainConfig  # noqa: E402
from pack.trainer.noise import NoiseLevels  # noqa: E402

MASKED, UNMASKED = simple_recipe(blur=0.01), simple_recipe(floor=1.0)


def quickstart_widgets(node_type: str) -> list[Any]:
    """Widget values of the first node of a type that the shipped workflow's training uses."""
    workflow = json.loads((PACK_ROOT / "workflows" / "quickstart.json").read_text(encoding="utf-8"))
    return next(list(n["widgets_values"]) for n in workflow["nodes"] if n["type"] == node_type)


def quickstart_settings() -> dict[str, Any]:
    """The values of the Train node in the shipped workflow, in the order of its widgets."""
    names = ("steps", "batch_size", "micro_batch", "learning_rate", "rank", "alpha", "normalization", "shift", "checkpointing", "seed")
    return dict(zip(names, quickstart_widgets("MaskedLoRA_Train"), strict=False))


def demo_training_set(folder: Path) -> TrainingSet:
    data_set = scan_folder(FolderSpec(folder=PACK_ROOT / "assets" / "pibo", mask_source="folder"))
    data_set = arrange(data_set, Arrangement(side=128, shape="square", step=16), load_mask)
    clip, vae = load_text_encoders(DEMO_MODEL), load_autoencoder(DEMO_MODEL)
    return encode_data_set(data_set, clip, vae, PRESETS[quickstart_widgets("MaskedLoRA_TextPadding")[0]], folder, Progress(None))


def run(training_set: TrainingSet, recipe: MaskRecipe, folder: Path) -> dict[str, float]:
    s = quickstart_settings()
    model = load_diffusion_model(DEMO_MODEL)
    train = TrainConfig(steps=s["steps"], batch_size=s["batch_size"], learning_rate=s["learning_rate"],
                        noise=NoiseLevels(shift=s["shift"]), seed=s["seed"])
    settings = RunConfig(train=train, lora=LoraSpec(rank=s["rank"], alpha=s["alpha"]), recipe=recipe, checkpointing=s["checkpointing"],
                         name="benchmark", rescue_folder=folder)
    result = run_training(model, training_set, settings, Progress(None))
    drift = measure_drift(model, result.lora, training_set, MASKED, seed=0)
    return {"drift_inside": drift.inside, "drift_outside": drift.outside, "outside_over_inside": drift.outside / drift.inside,
            **{k: v for k, v in result.report.items() if k.startswith("loss") or k.startswith("seconds")}}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        training_set = demo_training_set(Path(folder))
        print(json.dumps({"masked": run(training_set, MASKED, Path(folder)), "unmasked": run(training_set, UNMASKED, Path(folder))}))


if __name__ == "__main__":
    main()
