"""tools/make_masks.py with one more segmenter, "slow": brightness that takes its time. A program for test_masks_command.py.

`MOMENTS ARGUMENTS...`: for each moment (a JSON list of seconds) a process writes the masks and is killed so long after its first picture;
the numbers of masks that were there after each are printed. Then the command runs with the arguments.
"""
from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import make_masks  # noqa: E402

sys.path.append(str(ROOT / "benchmarks"))
import _pack  # noqa: E402

_pack.load()
from pack.dataset.scan import FolderSpec, scan_folder  # noqa: E402
from pack.host import plan_file  # noqa: E402
from pack.host.mask_places import Place, mask_places  # noqa: E402
from pack.host.mask_writer import write_masks  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parent))
from mask_stand_ins import Bright  # noqa: E402


class Slow(Bright):
    def segment(self, picture_HWC: object, caption: str = "") -> object:
        time.sleep(0.02)
        return super().segment(picture_HWC)  # type: ignore[arg-type]


plan_file.SEGMENTERS["slow"] = lambda regions, settings: Slow(**settings)  # type: ignore[index]


def killed(folder: Path, plan: str, moments: list[float]) -> list[int]:
    """How many masks there were after each kill."""
    places = mask_places(scan_folder(FolderSpec(folder=folder, mask_source="none")), "masks folder")
    return [killed_once(places, plan, folder / "masks", moment) for moment in moments]


def killed_once(places: list[Place], plan: str, masks: Path, moment: float) -> int:
    begun, begin = os.pipe()
    child = os.fork()
    if not child:
        write_masks(places, plan_file.read_plan(plan), "redo ours if changed", lambda done, total, text: os.write(begin, b".") and None)
        os._exit(0)
    os.read(begun, 1)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(begun)
    os.close(begin)
    return len(list(masks.glob("*.png")))


if __name__ == "__main__":
    moments, sys.argv[1:] = json.loads(sys.argv[1]), sys.argv[2:]
    options = make_masks.parser().parse_args()
    make_masks.say(json.dumps(killed(options.folder, options.plan.read_text(encoding="utf-8"), moments)))
    sys.exit(make_masks.main())
