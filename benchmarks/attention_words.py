"""Does the demo model's attention to a word lie on what the word means? The numbers in the help page of Attention Mask.

Drawn scenes with captions that no training step saw, then the pictures of pibo, whose name only a LoRA knows. `separation` is the area
under the ROC curve of the word's map against the mask: 0.5 is chance. About a minute on two cores; ends with one JSON line.

    python3 dev.py bench attention_words [--scenes 40] [--noise 0.5] [--padding comfyui-mask] [--lora out/demo/lora.safetensors]
"""
from __future__ import annotations

import argparse
import json
import logging
import random
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

import _pack

_pack.load()

import comfy.utils  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402
from demo_model import scenes  # noqa: E402
from pack.host.attention_masks import Looks, Question, WordMask, attention_masks  # noqa: E402
from pack.host.demo_model import load_autoencoder, load_diffusion_model, load_text_encoders  # noqa: E402
from pack.host.folders import DEMO_MODEL  # noqa: E402
from pack.host.lora_loading import put_on  # noqa: E402
from pack.host.progress import Progress  # noqa: E402
from pack.host.text_padding import PRESETS, TextPadding  # noqa: E402
from pack.masks.word_map import MAPS, otsu, overlap  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

PIBO = Path(__file__).resolve().parents[1] / "assets" / "pibo"


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.looks = Looks(level=options.noise, draws=2)
        self.kind: str = options.map
        self.clip, self.vae = load_text_encoders(DEMO_MODEL), load_autoencoder(DEMO_MODEL)

    def look(self, model: ModelPatcher, image_HWC: np.ndarray, mask_HW: np.ndarray, prompt: str, word: str,
             padding: TextPadding) -> WordMask:
        question = Question(prompt=prompt, words=word, kind=self.kind, padding=padding)
        image_BHWC, mask_BHW = (torch.from_numpy(x)[None].float() for x in (image_HWC, mask_HW))
        return attention_masks(model, self.clip, self.vae, image_BHWC, question, self.looks, mask_BHW, Progress(None))[0]

    def scenes(self, model: ModelPatcher, count: int) -> dict[str, object]:
        draws, by_role, fit = random.Random(11), defaultdict(list), defaultdict(list)
        for scene in scenes.split_scenes()[1][:count]:
            image, mask = scenes.draw(scene, draws)
            found = self.look(model, image, mask, scene.caption(), scene.kind, TextPadding())
            roles = {"subject": scene.kind, f"subject {scene.kind}": scene.kind, "its colour": scene.colour, "its place": scene.position,
                     "pattern": scene.pattern, "colour of the background": scene.background, "background": "background", "on": "on"}
            separations = {word.word: word.separation for word in found.words}
            for role, word in roles.items():
                by_role[role].append(separations[word])
            fit["inside"].append(found.found.inside)
            fit["covered"].append(float(mask.mean()))
            fit["overlap"].append(overlap(otsu(found.soft_HW), torch.from_numpy(mask)))
        return {"separation": means(by_role), "spread": round(stdev(by_role["subject"]), 3), **means(fit)}

    def pibo(self, model: ModelPatcher, padding: TextPadding) -> dict[str, object]:
        by_word, fit = defaultdict(list), defaultdict(list)
        for file in sorted(PIBO.glob("*.png")):
            image = np.asarray(Image.open(file).convert("RGB")) / np.float32(255)
            mask = np.asarray(Image.open(PIBO / "masks" / file.name).convert("L")) / np.float32(255)
            found = self.look(model, image, mask, file.with_suffix(".txt").read_text(encoding="utf-8").strip(), "pibo", padding)
            for word in found.words:
                if word.word in ("pibo", "background", "on"):
                    by_word[word.word].append(word.separation)
            fit["inside"].append(found.found.inside)
            fit["covered"].append(float(mask.mean()))
        return {"separation": means(by_word), **means(fit)}


def means(lists: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(mean(values), 3) for name, values in sorted(lists.items())}


def main() -> None:
    parser = argparse.ArgumentParser(prog="attention_words", description="Measure the attention masks of the demo model.")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--noise", type=float, default=0.5)
    parser.add_argument("--map", choices=MAPS, default=MAPS[0])
    parser.add_argument("--padding", choices=PRESETS, default="comfyui-mask", help="of the LoRA's training")
    parser.add_argument("--lora", type=Path, help="a LoRA that knows pibo, as dev.py demo writes it")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    comfy.utils.set_progress_bar_enabled(False)
    with torch.inference_mode():
        bench, model, padding = Bench(options), load_diffusion_model(DEMO_MODEL), PRESETS[options.padding]
        result = {"scenes": bench.scenes(model, options.scenes), "pibo": bench.pibo(model, padding)}
        if options.lora:
            result["pibo with the LoRA"] = bench.pibo(put_on(model, None, load_file(options.lora), 1.0, 0.0).model, padding)
    print(json.dumps({"noise": options.noise, "map": options.map, **result}))


if __name__ == "__main__":
    main()
