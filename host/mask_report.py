"""What is told of a run that made masks, in words and as JSON, and the data set that it leaves. White = learn."""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ..dataset.item import DataSet, MaskFiles
from ..dataset.words import counted
from .mask_journal import Entry
from .mask_plan import MaskPlan
from .mask_writer import Result, describe

NEEDS = "needs a person"
LITTLE, MUCH = 0.01, 0.95  # mean weight of a mask below and above which it is doubted


def doubt(entry: Entry) -> str:
    """Why a person should look at a picture; empty if nothing speaks for it. What a person accepted, also that there is no mask, is
    doubted only for what came after that.
    """
    if entry.status in ("failed", "nothing found"):
        return "" if entry.review == "accepted" else NEEDS
    if entry.review == "accepted":
        return entry.error if entry.status == "kept" else ""
    if entry.error:
        return entry.error
    if entry.missing:
        return f"no {', '.join(entry.missing)}"
    if entry.coverage < LITTLE:
        return "little is learned"
    return "nearly all is learned" if entry.coverage > MUCH else ""


def doubtful_first(results: Sequence[Result]) -> list[Result]:
    """Failed ones, those where nothing was found, those that miss regions (most first), those with very little or much white or
    another size, then the rest as they came."""
    ranks = {"failed": 0, "nothing found": 1}

    def rank(result: Result) -> tuple[int, int]:
        entry = result.entry
        doubted = bool(doubt(entry))
        return ranks.get(entry.status, 2 if doubted and entry.missing else 3 if doubted else 4), -len(entry.missing) if doubted else 0

    return sorted(results, key=rank)


def in_need(results: Sequence[Result]) -> list[Result]:
    """Those without a mask, unless a person said that they have none on purpose."""
    return [result for result in results if doubt(result.entry) == NEEDS]


def worth_a_look(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if doubt(result.entry) not in ("", NEEDS)]


def report_text(results: Sequence[Result], plan: MaskPlan, seconds: float) -> str:
    entries = [result.entry for result in results]
    made = [result.entry for result in results if result.fresh and result.entry.status == "made"]
    counts = Counter(entry.status for entry in entries)
    before = counts["made"] - len(made)
    lines = [f"{counted(len(entries), 'picture')}: {counted(len(made), 'mask')} made, {before} made before and still right, "
             f"{counts['kept']} kept, {counts['nothing found']} with nothing found, {counts['failed']} failed; white = learn",
             f"plan: {' + '.join(part.segmenter.name for part in plan.parts)}; masks in "
             + ", ".join(dict.fromkeys(str(result.place.home) for result in results))]
    masked = [entry for entry in entries if entry.mask]
    if masked:
        lines.append(f"learned on average {sum(entry.coverage for entry in masked) / len(masked):.1%} (mean weight)")
    if made:
        each = sum(entry.seconds for entry in made) / len(made)
        lines.append(f"{seconds:.1f} s in all; {each:.2f} s to make a mask")
    ordered = doubtful_first(results)
    for title, wanted in (("needs a person (no mask was written)", in_need(ordered)),
                          ("worth a look", worth_a_look(ordered))):
        if wanted:
            lines += ["", f"{title}: {len(wanted)}", *(f"  {result.place.name}: {describe(result.entry)}" for result in wanted)]
    return "\n".join(lines)


def report_json(results: Sequence[Result], plan: MaskPlan, seconds: float) -> str:
    """{"plan", "seconds", "counts", "needs_a_person", "worth_a_look", "pictures"}; of each picture what the journal has of it."""
    need = [result.place.name for result in in_need(results)]
    looks = [result.place.name for result in worth_a_look(results)]
    pictures = [{"name": result.place.name, "fresh": result.fresh, **asdict(result.entry), "picture": str(result.place.picture),
                 "mask": str((result.place.home / result.entry.mask).absolute()) if result.entry.mask else None} for result in results]
    told = {"plan": json.loads(plan.to_json()), "seconds": round(seconds, 3), "counts": Counter(one.entry.status for one in results),
            "needs_a_person": need, "worth_a_look": looks, "pictures": pictures}
    return json.dumps(told, indent=1, ensure_ascii=False)


def mask_file(result: Result) -> Path | None:
    """The picture's mask, if it has one."""
    return result.place.home / result.entry.mask if result.entry.mask else None


def masked_set(data_set: DataSet, results: Sequence[Result], report: str) -> DataSet:
    """The items that have all their masks now, with these masks. Raises ValueError with the report if there is none."""
    masks = {result.place.picture: mask for result in results if (mask := mask_file(result)) is not None}
    items = []
    for item in data_set.items:
        files = tuple(Path(path) for path in getattr(item.image, "paths", ()))
        if all(path in masks for path in files):
            own = tuple(masks[path].resolve() for path in files)
            # A mask that is there may be read by a channel of its own.
            known = isinstance(item.mask, MaskFiles) and tuple(path.resolve() for path in item.mask.paths) == own
            items.append(item if known else replace(item, mask=MaskFiles(own)))
    if not items:
        raise ValueError(f"no picture has a mask, so there is nothing to go on with\n{report}")
    left = len(data_set.items) - len(items)
    note = f"\n{left} of {counted(len(data_set.items), 'item')} left out, because masks are missing" if left else ""
    return DataSet(tuple(items), f"{report}{note}\n\n{data_set.report}".rstrip())
