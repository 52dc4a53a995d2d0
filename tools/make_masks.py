"""`python3 dev.py masks FOLDER [--plan plan.json]`: writes masks for a folder of pictures or clips, without a graph. White = learn.

The plan is {"parts": [{"segmenter": "quick", "weights": {"face": 1, "person": 0.5}, "how": "max", "recipe": [{"op": "grow", ...}]}, ...]}:
segmenters in order, the weights of their regions, and how each mask joins the one before. Other values of a part are settings of its
segmenter; models are named as in the dropdowns of the nodes that load them:
  quick       people and faces, nothing to download: regions face, person
  body parts  "model", "detector" for boxes around people: regions face, hair, body, clothing
  words       "detector", "sam" or both, "source", "threshold", "text_threshold", "most": the regions are the words
  clipseg     "model", "threshold", "from_caption": the regions are the words
"background" is the weight of all else. "accept_licence": true lets a "... (download)" be fetched. Without a plan: quick, faces 1 and the
rest of a person 0.502.

A run that was stopped or killed goes on where it was when the same command is given again.

Exit code: 0 all went well, also where nothing was found; 1 pictures failed, or the command cannot run; 130 stopped.
"""
from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import _pack  # noqa: E402

if TYPE_CHECKING:
    from pack.host.mask_run import Run

LAYOUTS = ("masks folder", "beside, -masklabel.png", "beside, .mask.png")
EXISTING = ("redo ours if changed", "keep", "redo all")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="dev.py masks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("folder", type=Path, help="pictures, or with --clips one folder of frames for each clip")
    result.add_argument("--plan", type=Path, help="a JSON file")
    result.add_argument("--clips", action="store_true")
    place = result.add_mutually_exclusive_group()
    place.add_argument("--layout", choices=LAYOUTS, default=LAYOUTS[0], help="where masks go below the folder (default: %(default)s)")
    place.add_argument("--out", type=Path, metavar="DIR", help="write masks to another folder instead")
    result.add_argument("--existing", choices=EXISTING, default=EXISTING[0],
                        help="what becomes of masks that are there (default: %(default)s)")
    result.add_argument("--report", type=Path, metavar="DIR", default=Path("out/masks"),
                        help="where report.txt, report.json, sheet.png and needs_a_person.txt go (default: %(default)s)")
    result.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    return result


def main() -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of pictures may have letters that the terminal has not
    options = parser().parse_args()
    _pack.load(cpu=options.cpu or no_gpu())
    read_model_folders()
    try:
        run = make(options)
        say(f"\n{run.report}\n\nreport, sheet and list: {write_report(run, options.report)}")
    except ValueError as error:
        say(f"error: {error}")
        return 1
    except OSError as error:
        say(f"error: a file cannot be read or written ({error}); what is written stays, and the same command goes on from there")
        return 1
    except KeyboardInterrupt:
        say("stopped; what is written stays, and the same command goes on from there")
        return 130
    return 1 if any(result.entry.status == "failed" for result in run.results) else 0


def make(options: argparse.Namespace) -> Run:
    import torch
    from pack.dataset.scan import FolderSpec, scan_folder
    from pack.host.mask_places import mask_places
    from pack.host.mask_run import run_masks
    from pack.host.plan_file import QUICK_PLAN, read_plan

    if options.plan and not options.plan.is_file():
        raise ValueError(f"{options.plan} is not there; write a plan (--help shows one)")
    plan = read_plan(options.plan.read_text(encoding="utf-8") if options.plan else QUICK_PLAN)
    content = "clips" if options.clips else "pictures"
    data_set = scan_folder(FolderSpec(folder=options.folder, content=content, mask_source="none"))
    places = mask_places(data_set, "another folder" if options.out else options.layout, options.out and options.out.absolute())
    with torch.inference_mode():
        return run_masks(places, plan, options.existing, progress)


def progress(done: int, total: int, text: str) -> None:
    if text:
        say(f"[{done}/{total}] {text}")


def write_report(run: Run, folder: Path) -> Path:
    from pack.host.mask_report import in_need
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    need = "".join(f"{result.place.picture}\n" for result in in_need(run.results))
    for name, text in (("report.txt", f"{run.report}\n"), ("report.json", f"{run.json}\n"), ("needs_a_person.txt", need)):
        (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    Image.fromarray(run.sheet).save(folder / "sheet.png")
    return folder.resolve()


def no_gpu() -> bool:
    import torch

    return not (torch.cuda.is_available() or torch.backends.mps.is_available() or (hasattr(torch, "xpu") and torch.xpu.is_available()))


def read_model_folders() -> None:
    """As ComfyUI itself does when it starts."""
    from utils.extra_config import load_extra_path_config

    file = Path(os.environ["COMFYUI_PATH"]) / "extra_model_paths.yaml"
    if file.is_file():
        load_extra_path_config(str(file))


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
