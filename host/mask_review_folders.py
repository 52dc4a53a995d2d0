"""Which folders Review Masks shows: those that masks were written to, inside of ComfyUI's directories."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ..dataset.item import DataSet, ImageFiles, MaskFiles
from . import mask_journal
from .folders import MASKS, PACK_ROOT
from .mask_review import MaskReview


def find_reviews(folder: str, data_set: DataSet | None = None) -> list[MaskReview]:
    """The masks in the folders that a workflow names, one a line, or in their "masks" folders; without a name those of a data set.

    They lie in ComfyUI's input or output directory; "name [output]" means the latter alone. Raises ValueError for any other place and
    where no masks were written.
    """
    if named := [_named(line.strip()) for line in folder.splitlines() if line.strip()]:
        return list(dict.fromkeys(named))
    if data_set is None:
        raise ValueError("no masks are named; connect the data set of Write Masks, or give the folder that it wrote to")
    reviews = list(_of_set(data_set))
    if not reviews:
        raise ValueError("no masks were written for this data set in ComfyUI's input and output directories; run Write Masks first")
    return reviews


def _roots() -> tuple[Path, ...]:
    return tuple(Path(root()).resolve() for root in (folder_paths.get_input_directory, folder_paths.get_output_directory))


def _review(place: Path) -> MaskReview | None:
    """The review of a folder, links followed; None where no journal lies, or outside of where masks may be written."""
    resolved, roots = place.resolve(), _roots()
    if not any(resolved.is_relative_to(root) for root in roots) or not (resolved / mask_journal.JOURNAL).is_file():
        return None
    return MaskReview(resolved, (*roots, PACK_ROOT / "assets"))


def _named(folder: str) -> MaskReview:
    roots = _roots()
    name, directory = folder_paths.annotated_filepath(folder)
    try:
        places = [(root / name).resolve() for root in ((Path(directory),) if directory else roots)]
    except (OSError, RuntimeError, ValueError) as error:  # a null byte, a loop of links
        raise ValueError(f"{folder!r} is not a folder name ({error}); give the folder that Write Masks wrote to") from error
    allowed = [place for place in places if any(place.is_relative_to(root) for root in roots)]
    if not allowed:
        raise ValueError(f"{folder!r} lies outside ComfyUI's input and output directories; use a folder in one of them")
    found = [review for place in (*allowed, *(place / MASKS for place in allowed)) if (review := _review(place))]
    if not found:
        raise ValueError(f"no masks were written for {folder!r}: there is no {mask_journal.JOURNAL} in "
                         f"{' or '.join(map(str, allowed))}; run Write Masks first")
    return found[0]


def _of_set(data_set: DataSet) -> Iterator[MaskReview]:
    """Folders around the set's pictures and masks whose journal lists one of the pictures."""
    pictures = {path.resolve() for item in data_set.items if isinstance(item.image, ImageFiles) for path in item.image.paths}
    masks = [path for item in data_set.items if isinstance(item.mask, MaskFiles) for path in item.mask.paths]
    folders = dict.fromkeys(folder for path in (*masks, *pictures) for folder in path.parents)
    for place in dict.fromkeys(place.resolve() for folder in folders for place in (folder, folder / MASKS)):
        review = _review(place)
        if review is not None and any(review.shows(entry, pictures) for entry in review.entries().values()):
            yield review
