"""Text padding and masks, trained and sampled in all combinations on the demo model: the study that docs/padding_study.md tells.

Three LoRAs (padding attended as Flux was released, zeroed, masked) on the same pictures and seeds, each sampled under all three
regimes; then masked against unmasked loss, with and without prior preservation. About 35 minutes on two idle cores; what is
finished stays in --out, and the same command goes on behind it. Ends with one JSON line.

    python3 dev.py bench padding_study [--quick] [--out FOLDER] [--docs]
"""
from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import _pack

_pack.load()

import comfy.utils  # noqa: E402
import torch  # noqa: E402
from _study_measures import measures, read_sheet  # noqa: E402
from _study_pictures import curves, grid  # noqa: E402
from _study_plan import ARMS, LOSS_ARMS, PADDING_ARMS, QUICK, REGIMES, Cell, Plan  # noqa: E402
from _study_report import LOSS_NAMES, Findings, last_line, to_json, to_markdown  # noqa: E402
from _study_runs import Studio, require_same_plan, write_json  # noqa: E402
from demo_model.classifier import Classifier, Drawn, accuracy, draw_pictures, fit  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CLASSIFIER_SEED, EXAMINATION_SEED = 101, 202
COMMAND = "python3 dev.py bench padding_study --docs"
Say = Callable[[str], None]


def main() -> None:
    options = arguments()
    plan = QUICK if options.quick else Plan()
    folder = options.out or ROOT / "out" / ("padding_study_quick" if options.quick else "padding_study")
    logging.getLogger().setLevel(logging.ERROR)
    comfy.utils.set_progress_bar_enabled(False)
    with torch.inference_mode():
        found = study(plan, folder.resolve(), lambda text: print(text, flush=True))
        report(found, folder.resolve(), DOCS if options.docs else None)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="padding_study", description="Train and sample the demo model under every text padding.")
    parser.add_argument("--quick", action="store_true", help="a dozen steps, to see that all of it works; its numbers mean nothing")
    parser.add_argument("--out", type=Path, help="where finished LoRAs, samples and results lie; the same folder goes on")
    parser.add_argument("--docs", action="store_true", help="also write docs/padding_study_results.md and its pictures")
    options = parser.parse_args()
    if options.quick and options.docs:
        parser.error("--docs takes a whole study; leave --quick out")
    return options


def study(plan: Plan, folder: Path, say: Say) -> Findings:
    """Make what is missing, then measure."""
    require_same_plan(plan, folder)
    studio = Studio(plan, folder)
    trainings = [(arm, seed) for seed in plan.seeds for arm in ARMS if not studio.finished(arm, seed)]
    cells = [cell for cell in plan.cells() if not studio.sheet_file(cell).exists()]
    say(f"{len(trainings)} trainings of {plan.steps} steps and {len(cells)} sheets of {len(plan.prompts) * len(plan.noise_seeds)} samples "
        f"are to be made: about {plan.seconds(trainings, cells) / 60:.0f} minutes on two idle cores. They lie in {folder}")
    started = time.monotonic()
    for arm, seed in trainings:
        studio.train(arm, seed)
        say(f"{(time.monotonic() - started) / 60:5.1f} min  trained {arm.name}, seed {seed}")
    for number, cell in enumerate(cells, start=1):
        studio.sample(cell)
        if number % 10 == 0 or number == len(cells):
            say(f"{(time.monotonic() - started) / 60:5.1f} min  sampled {number} of {len(cells)} sheets")
    return measured(studio, say)


def measured(studio: Studio, say: Say) -> Findings:
    plan = studio.plan
    classifier = classifier_of(studio)
    drawn = draw_pictures(EXAMINATION_SEED, plan.examined)
    seen = torch.cat([studio.vae.decode(studio.vae.encode(part)).float().cpu() for part in drawn.pictures_BHWC.split(20)])
    readings = {"drawn": accuracy(classifier, drawn), "drawn, through the autoencoder": accuracy(classifier, Drawn(seen, drawn.answers))}
    say("The classifier reads held-out pictures right: " + ", ".join(f"{head} {share:.1%}" for head, share in readings["drawn"].items()))
    sheets = {cell: read_sheet(studio.sheet_file(cell), plan) for cell in plan.cells()}
    base = {regime: sheets[Cell("", 0, 0, 1.0, regime)] for regime in REGIMES}
    cells = {cell: measures(sheet, base[cell.sampled], base["none"], plan, classifier) for cell, sheet in sheets.items()}
    records = {(arm.name, seed): json.loads(studio.record_file(arm, seed).read_text("utf-8")) for arm in ARMS for seed in plan.seeds}
    found = Findings(plan, cells, records, readings)
    Image.fromarray(grid(sheets, plan)).save(studio.folder / "grid.png")
    return found


def classifier_of(studio: Studio) -> Classifier:
    """Trained once for a folder."""
    file, plan = studio.folder / "classifier.safetensors", studio.plan
    if not file.exists():
        trained = fit(CLASSIFIER_SEED, plan.classifier_pictures, plan.classifier_steps)
        partial = file.with_suffix(".partial")
        save_file(trained.state_dict(), partial)
        partial.replace(file)
    classifier = Classifier()
    classifier.load_state_dict(load_file(file))
    return classifier.eval().requires_grad_(False)


def report(found: Findings, folder: Path, docs: Path | None) -> None:
    """Tables and pictures; the last line is JSON."""
    plan, text = found.plan, to_markdown(found, COMMAND)
    write_json(folder / "results.json", to_json(found))
    (folder / "results.md").write_text(text, encoding="utf-8")
    error = "Squared error inside the masks of held-out pictures, same noise for all"
    plots = {"loss_padding": (error, {arm.name: [found.curve(arm.name, seed) for seed in plan.seeds] for arm in PADDING_ARMS}),
             "loss_masks": (error.replace("inside", "outside"),
                            {LOSS_NAMES[arm.name]: [found.curve(arm.name, seed, "outside") for seed in plan.seeds] for arm in LOSS_ARMS})}
    for name, (title, lines) in plots.items():
        Image.fromarray(curves(title, lines)).save(folder / f"{name}.png")
    if docs:
        write_docs(text, {"grid": "Samples of the first seed, trained and sampled"} | {name: title for name, (title, _) in plots.items()},
                   folder, docs)
    print(text)
    print(f"Wrote {folder}/results.md, results.json, grid.png, loss_padding.png, loss_masks.png")
    print(last_line(found))


def write_docs(text: str, pictures: dict[str, str], folder: Path, docs: Path) -> None:
    """The tables and then the pictures, smaller."""
    shown = [f"![{title}](padding_study_{name}.jpg)" for name, title in pictures.items()]
    (docs / "padding_study_results.md").write_text("\n\n".join([text + "\n## Pictures", *shown]) + "\n", encoding="utf-8")
    for name in pictures:
        with Image.open(folder / f"{name}.png") as picture:
            small = picture.convert("RGB")
            small.thumbnail((1200, 1200))
            small.save(docs / f"padding_study_{name}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
