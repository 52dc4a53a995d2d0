"""The journal of masks: what is written is read, the last line counts, a torn line is none."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pack.host.mask_journal import JOURNAL, Entry, append, read

MADE = Entry("../a b.png", "a b.png", "made", "plan", "12-34", "hash", 0.25, ("face",), ("hair",), 1.5)


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    assert read(tmp_path) == {}
    append(tmp_path, MADE)
    append(tmp_path, Entry("../ü.png", None, "failed", error="broken; save it again"))

    assert read(tmp_path) == {"../a b.png": MADE, "../ü.png": Entry("../ü.png", None, "failed", error="broken; save it again")}
    first = json.loads((tmp_path / JOURNAL).read_bytes().splitlines()[0])
    assert first == {"picture": "../a b.png", "mask": "a b.png", "status": "made", "plan": "plan", "picture_id": "12-34",
                     "mask_sha256": "hash", "coverage": 0.25, "found": ["face"], "missing": ["hair"], "seconds": 1.5, "error": "",
                     "review": ""}


def test_the_last_line_of_a_picture_counts(tmp_path: Path) -> None:
    for entry in (MADE, Entry("../b.png"), replace(MADE, review="redo")):
        append(tmp_path, entry)

    assert list(read(tmp_path)) == ["../a b.png", "../b.png"]
    assert read(tmp_path)["../a b.png"].review == "redo"


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    append(tmp_path, MADE)
    whole = (tmp_path / JOURNAL).read_bytes()
    for cut in (1, 20, len(whole) - 1):
        (tmp_path / JOURNAL).write_bytes(whole + whole.replace(b"a b", b"c d")[:cut])
        append(tmp_path, Entry("../e.png"))

        found = read(tmp_path)
        assert found["../a b.png"] == MADE
        assert found["../e.png"] == Entry("../e.png")
        assert set(found) - {"../c d.png"} == {"../a b.png", "../e.png"}


def test_lines_of_a_newer_version_and_nonsense(tmp_path: Path) -> None:
    lines = ['{"picture": "x.png", "colour": 3}', "[1, 2]", '{"mask": "no picture"}', '{"picture": 5}', "null", "\xff", "[" * 100_000]
    (tmp_path / JOURNAL).write_text("\n".join(lines), "utf-8")
    assert read(tmp_path) == {"x.png": Entry("x.png")}
