"""Masks for a whole data set, from the plan to what is told of it. White = learn."""
from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..dataset.item import DataSet
from ..masks.canvas import Pixels
from .folders import input_relative, require_writable
from .mask_making import Watch
from .mask_places import Place, set_folders
from .mask_plan import MaskPlan
from .mask_report import masked_set, report_json, report_text
from .mask_sheet import doubtful_sheet
from .mask_writer import Existing, Result, write_masks

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What became of all pictures. sheet: the doubtful ones first, (H, W, 3) uint8."""

    results: list[Result]
    report: str
    json: str
    sheet: Pixels


def run_masks(places: Sequence[Place], plan: MaskPlan, existing: Existing, watch: Watch) -> Run:
    start = time.perf_counter()
    results = write_masks(places, plan, existing, watch)
    seconds = time.perf_counter() - start
    report = report_text(results, plan, seconds)
    logger.info("Masked LoRA: %s", report)
    return Run(results, report, report_json(results, plan, seconds), doubtful_sheet(results))


def require_own_places(places: Sequence[Place]) -> None:
    """Raises ValueError unless every mask goes into ComfyUI's input or output directory, whatever links there are."""
    for folder in {place.mask.parent for place in places} | {place.home for place in places}:
        require_writable(folder)


def go_on(data_set: DataSet, run: Run) -> tuple[DataSet, str]:
    """The data set with the new masks, and the folders of its pictures, one a line, as Load Training Folder wants them."""
    return masked_set(data_set, run.results, run.report), "\n".join(input_relative(folder) for folder in set_folders(data_set))
