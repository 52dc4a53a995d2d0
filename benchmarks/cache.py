"""What the cache costs: encoding a folder of photographs beside the bare encoders, and opening a set of 100,000 examples.

The autoencoder has the architecture and size of Flux's with random weights, the text encoders are the demo model's. "Pure" is
vae.encode and encode_text on tensors that are loaded already; ours hashes, reads, crops and resizes files of several megapixels and
their masks, and writes everything. Rounds alternate, each with an empty cache; the ratio is the median of the rounds' ratios. The same
in processor time, which other programs disturb less, is printed too: it counts the loading that ran beside the encoders.

The 100,000 examples are synthetic, their 200,000 files empty: opening looks for each and opens none. Memory is the process's growth.
Pre-flight is the check of 10,000 pairs before anything is encoded.

Ends with one JSON line {"encode_ratio": ..., "index_items": ..., "index_seconds": ..., "index_rss_mb": ..., "preflight_10k_seconds": ...}.
"""
from __future__ import annotations

import json
import logging
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import _pack

_pack.load()

import torch  # noqa: E402
from pack.dataset.cache import ExampleCache, ExampleRef  # noqa: E402
from pack.dataset.manifest import open_set, save_set  # noqa: E402
from pack.dataset.refs import RefTable  # noqa: E402

ITEMS, PICTURES, SIDE, LONG_SIDE, ROUNDS = 100_000, 8, 512, 3000, 3
SPREAD = 0x9E3779B97F4A7C15F39CC0605CEDC8341082276BF3A27251F86C6A11D0C18E95  # odd: multiples make distinct keys in all shards


def synthetic_refs() -> Iterator[ExampleRef]:
    for i in range(ITEMS):
        key = f"{(i + 1) * SPREAD % 2**256:064x}"
        text = f"{(i % 1000 + 1) * SPREAD % 2**256:064x}"
        yield ExampleRef(f"some folder/picture {i:06d}", f"a caption of some length, number {i % 1000}", key, text, key,
                         (16, 128, 128), 256, (1, 1024, 1024))


def make_files(folder: Path) -> None:
    cache = ExampleCache(folder)
    for store in (cache.latents, cache.masks, cache.texts):
        for shard in range(256):
            (store.folder / f"{shard:02x}").mkdir(parents=True)
    for i, ref in enumerate(synthetic_refs()):
        for store, key in ((cache.latents, ref.latent_key), (cache.masks, ref.latent_key), *[(cache.texts, ref.text_key)] * (i < 1000)):
            os.close(os.open(store.file(key), os.O_CREAT | os.O_WRONLY))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def index() -> tuple[float, float]:
    """Seconds to index, save and open the synthetic set, and megabytes that the process grew by."""
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder))
        before, start = peak_mb(), time.perf_counter()
        save_set(ExampleCache(Path(folder)), RefTable(synthetic_refs()), "{}", "", "large")
        saved = time.perf_counter()
        training_set = open_set(Path(folder), "large")
        end = time.perf_counter()
        grown = peak_mb() - before
        if len(training_set.examples) != ITEMS:
            raise RuntimeError(f"{len(training_set.examples)} examples came back")
        size = (Path(folder) / "sets" / "large.json").stat().st_size
    print(f"{ITEMS} examples: indexed and saved in {saved - start:.2f} s, opened in {end - saved:.2f} s, {grown:.0f} MB; the set's file "
          f"has {size / 1e6:.1f} MB")
    return end - start, grown


def encode_ratio() -> float:
    """Our time for encoding a folder over that of the encoders alone."""
    import comfy.utils
    from comfy.sd import VAE
    from pack.dataset.item import DataSet
    from pack.dataset.load import load_item
    from pack.host.demo_model import load_text_encoders
    from pack.host.encode import encode_data_set
    from pack.host.folders import DEMO_MODEL
    from pack.host.progress import Progress
    from pack.host.text import encode_text
    from pack.host.text_padding import TextPadding

    comfy.utils.set_progress_bar_enabled(False)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        items = photographs(Path(folder))
        vae, clip = VAE(sd=random_autoencoder()), load_text_encoders(DEMO_MODEL)
        images = [load_item(item).image_THWC for item in items]

        def pure() -> None:
            for item, image in zip(items, images, strict=True):
                vae.encode(image)
                encode_text(clip, item.caption, TextPadding())

        def ours(number: int) -> None:
            encode_data_set(DataSet(tuple(items), ""), clip, vae, TextPadding(), Path(folder) / f"cache {number}", Progress(None))

        seconds = {"loading alone": timed(lambda: [load_item(item) for item in items])}
        pure()  # warms up
        pairs, processor = [], []
        for number in range(ROUNDS):
            start = time.process_time()
            one = timed(lambda n=number: ours(n))
            middle = time.process_time()
            pairs.append((one, timed(pure)))
            processor.append((middle - start) / (time.process_time() - middle))
        again = timed(lambda: ours(0))
    ratio = statistics.median(one / other for one, other in pairs)
    seconds |= {"ours": statistics.median(one for one, _ in pairs), "pure": statistics.median(other for _, other in pairs), "cached": again}
    parts = ", ".join(f"{name} {value / PICTURES:.3f}" for name, value in seconds.items())
    print(f"ratio of processor time: {statistics.median(processor):.3f}")
    print(f"{PICTURES} photographs of {LONG_SIDE} pixels to {SIDE}x{SIDE}, {torch.get_num_threads()} threads; seconds a picture: "
          f"{parts}; ratios " + ", ".join(f"{one / other:.3f}" for one, other in pairs))
    return ratio


def photographs(folder: Path) -> list[object]:
    """JPEG files of several megapixels with PNG masks, cropped to the central square."""
    from pack.dataset.geometry import Placement
    from pack.dataset.item import ImageFiles, Item, MaskFiles
    from PIL import Image
    from skimage import data

    items: list[object] = []
    for i, source in enumerate([data.astronaut(), data.coffee(), data.chelsea(), data.rocket()] * 2):
        picture = Image.fromarray(source)
        picture = picture.resize((LONG_SIDE, round(LONG_SIDE * picture.height / picture.width)), Image.Resampling.BICUBIC)
        file, mask = folder / f"{i}.jpg", folder / f"{i}.png"
        picture.rotate(i).save(file, quality=92)
        picture.convert("L").point(lambda grey: 255 if grey > 100 else 0).save(mask)
        left, side = (picture.width - picture.height) // 2, picture.height
        placement = Placement((SIDE, SIDE), (left, 0, left + side, side))
        items.append(Item(f"photo {i}", ImageFiles((file,)), MaskFiles((mask,)), f"photograph {i}", picture.size, placement=placement))
    return items[:PICTURES]


def random_autoencoder() -> dict[str, torch.Tensor]:
    """Weights for Flux's autoencoder: 128 channels, 16 of them latent."""
    from comfy.ldm.models.autoencoder import AutoencodingEngine

    config = {"double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4],
              "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    network = AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": "comfy.ldm.modules.diffusionmodules.model.Encoder", "params": config},
        decoder_config={"target": "comfy.ldm.modules.diffusionmodules.model.Decoder", "params": config})
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(value.shape, generator=generator) * (value[0].numel() ** -0.5) if value.ndim > 1 else
            torch.full_like(value, float("norm" in name and name.endswith("weight")))
            for name, value in network.state_dict().items()}


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    logging.getLogger().setLevel(logging.ERROR)
    index_seconds, index_mb = index()
    ratio = encode_ratio()
    from _preflight import preflight_10k_seconds

    preflight = preflight_10k_seconds()
    print(json.dumps({"encode_ratio": round(ratio, 4), "index_items": ITEMS, "index_seconds": round(index_seconds, 3),
                      "index_rss_mb": round(index_mb, 1), "preflight_10k_seconds": round(preflight, 2)}))


if __name__ == "__main__":
    main()
