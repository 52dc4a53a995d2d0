"""The table of known models: whole, without doubles, and the same in docs/segmenters.md; a failing test shows what belongs there."""
from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import get_args

import pytest
from pack.segmentation import clipseg, face_parsing, florence, florence_layout, grounding, grounding_file, sam_files, sapiens
from pack.segmentation.catalogue import KNOWN, MODEL_TYPES, PLACES, Family, KnownModel, Licence

LICENCES = list(dict.fromkeys(known.licence for known in KNOWN))


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "segmenters.md").read_text(encoding="utf-8")


def model_row(known: KnownModel) -> str:
    [folder] = [place.default for place in PLACES[known.family] if place.key == known.key]
    place = f"`{known.place}`" if known.is_file else f"`{known.place}/`: {', '.join(f'`{pattern}`' for pattern in known.files)}"
    size = f"{known.gigabytes:g} GB" if known.gigabytes else "not known"
    gated = ", gated" if known.gated else ""
    return f"| {known.name} | [{known.repo}]({known.link}){gated} | `models/{folder}` | {place} | {size} | {known.licence.name} |"


def licence_row(licence: Licence) -> str:
    return f"| [{licence.name}]({licence.link}) | {licence.limits or 'none for masks'} |"


def folder_row(family: Family) -> str:
    files = {True: " (also single files)", False: ""}
    folders = ", ".join(f"`{place.key}`: `models/{place.default}`{files[place.files]}" for place in PLACES[family])
    return f"| {family} | {folders} | {', '.join(f'`{name}`' for name in MODEL_TYPES[family])} |"


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_every_model_stands_in_the_table(known: KnownModel, page: str) -> None:
    assert model_row(known) in page.splitlines()


@pytest.mark.parametrize("licence", LICENCES, ids=lambda licence: licence.name)
def test_every_licence_stands_in_the_table(licence: Licence, page: str) -> None:
    assert licence_row(licence) in page.splitlines()


@pytest.mark.parametrize("family", get_args(Family))
def test_every_folder_stands_in_the_table(family: Family, page: str) -> None:
    assert folder_row(family) in page.splitlines()


def test_the_tables_list_no_other_models(page: str) -> None:
    links = [known.link for known in KNOWN] + [licence.link for licence in LICENCES if licence.link.startswith("https://huggingface.co/")]
    assert sorted(re.findall(r"\]\((https://huggingface\.co/[^)]+)\)", page)) == sorted(links)


NEEDED = {
    "Sapiens2": sapiens.NEEDS, "SegFormer face parsing": face_parsing.NEEDS, "SAM 1": sam_files.SINCE["SamModel"],
    "SAM 2, SAM 2.1": sam_files.SINCE["Sam2VideoModel"], "SAM 3": sam_files.SINCE["Sam3VideoModel"],
    "GroundingDINO": grounding.MODELS["grounding-dino"][1], "GroundingDINO, the original files": grounding_file.SINCE,
    "MM-GroundingDINO": grounding.MODELS["mm-grounding-dino"][1], "Florence-2": florence.SINCE, "CLIPSeg": clipseg.SINCE}


def test_the_table_of_segmenters_asks_for_the_transformers_that_the_code_asks_for(page: str) -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    asked = {row[2]: row[3].removesuffix(" or newer") for row in rows if len(row) == 6 and row[3].endswith(" or newer")}
    assert asked == NEEDED
    assert florence_layout.SINCE == florence.SINCE


def test_names_and_places_are_unique() -> None:
    for values in ([known.name for known in KNOWN], [(known.key, known.place) for known in KNOWN], [known.repo for known in KNOWN]):
        assert len(set(values)) == len(values)
    keys = [place.key for places in PLACES.values() for place in places]
    assert len(set(keys)) == len(keys)


def test_every_family_can_be_looked_for_and_downloaded() -> None:
    assert set(PLACES) == set(MODEL_TYPES) == {known.family for known in KNOWN} == set(get_args(Family))


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_a_model_fits_its_place(known: KnownModel) -> None:
    [place] = [place for place in PLACES[known.family] if place.key == known.key]
    assert place.files or not known.is_file
    assert PurePosixPath(known.place).name == known.place
    assert known.repo.count("/") == 1
    assert known.is_file or "config.json" in known.files
    assert known.licence.link.startswith("https://")


def test_the_licences_say_what_a_trainer_must_know() -> None:
    said = {known.name: known.licence.limits for known in KNOWN}
    assert "Non-commercial" in said["sapiens 0.3b"]
    assert all(word in said["sapiens2 0.4b"] for word in ("biometric", "impersonating", "pornographic"))
    assert "non-commercial" in said["face parsing"]
    assert "military" in said["sam3"]
    assert not any(said[name] for name in ("sam2.1 tiny", "sam vit base", "clipseg", "florence-2 base", "grounding dino tiny"))
