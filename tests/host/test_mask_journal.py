"""The journal of masks: what is written is read, the last line counts, a torn line is none."""
from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import folder_paths
import pytest
from pack.host import mask_journal
from pack.host.mask_journal import EDITING, JOURNAL, Entry, append, is_ours, latest, read, stamp

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


WRONG = {"mask": (5, [], {}), "status": ([], "done", None), "plan": ({}, None), "picture_id": (5,), "mask_sha256": ([],), "error": (5,),
         "review": ([], None, "yes"), "coverage": ("0.5", "NaN", [1]), "seconds": (float("inf"), float("nan"), 10 ** 400),
         "found": ("face", [5], {"a": 1}), "missing": (5, [None])}


@pytest.mark.parametrize("name", WRONG)
def test_values_of_other_types_make_a_line_unreadable(tmp_path: Path, name: str) -> None:
    append(tmp_path, MADE)
    with (tmp_path / JOURNAL).open("a") as file:
        for value in WRONG[name]:
            file.write(json.dumps({**asdict(replace(MADE, review="accepted")), name: value}) + "\n")
    assert read(tmp_path) == {MADE.picture: MADE}
    (tmp_path / JOURNAL).unlink()
    append(tmp_path, replace(MADE, mask=None, coverage=1))
    assert read(tmp_path)[MADE.picture].mask is None


def test_a_link_is_neither_read_nor_written(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    append(other, MADE)
    before = (other / JOURNAL).read_bytes()
    (home / JOURNAL).symlink_to(other / JOURNAL)
    assert read(home) == {}
    with pytest.raises(ValueError, match="is a link and is neither read nor written; remove it"):
        append(home, MADE)
    assert (other / JOURNAL).read_bytes() == before


def test_what_is_cached_is_what_is_there(tmp_path: Path) -> None:
    """Appended by us or by another process, cut, replaced by another file, removed: read says what a fresh reader would."""
    def line(entry: Entry) -> bytes:
        return json.dumps(asdict(entry)).encode() + b"\n"

    journal = tmp_path / JOURNAL
    entries = [replace(MADE, picture=f"../{number}.png", mask_sha256=f"{number:064d}") for number in range(20)]
    for entry in entries[:10]:
        append(tmp_path, entry)
        assert latest(tmp_path, entry.picture) == entry
    read(tmp_path).clear()
    assert list(read(tmp_path).values()) == entries[:10]
    with journal.open("ab") as file:
        file.write(line(entries[10]) + line(entries[11])[:-1])
    assert list(read(tmp_path).values()) == entries[:12]
    for half in (line(entries[12])[:50], line(entries[12])[50:]):
        with journal.open("ab") as file:
            file.write((b"\n" if half.startswith(b"{") else b"") + half)
        found = list(read(tmp_path).values())
    assert found == entries[:13]
    append(tmp_path, replace(entries[0], mask_sha256="new"))
    assert latest(tmp_path, "../0.png") == replace(entries[0], mask_sha256="new")
    assert [is_ours(tmp_path, "../0.png", digest) for digest in (entries[0].mask_sha256, "new", "")] == [True, True, False]
    journal.write_bytes(line(entries[3]))
    assert read(tmp_path) == {"../3.png": entries[3]}
    assert not is_ours(tmp_path, "../0.png", "new")
    journal.write_bytes(line(entries[4]))
    os.utime(journal, ns=(1, 1))
    assert read(tmp_path) == {"../4.png": entries[4]}
    longer = tmp_path / "longer"
    longer.write_bytes(b"".join(map(line, entries[5:20])))
    os.replace(longer, journal)
    assert list(read(tmp_path).values()) == entries[5:20]
    journal.unlink()
    assert read(tmp_path) == {}
    assert latest(tmp_path, "../5.png") is None


def test_only_what_is_new_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[object] = []
    loads = json.loads
    monkeypatch.setattr(mask_journal.json, "loads", lambda line: parsed.append(line) or loads(line))
    for number in range(50):
        append(tmp_path, replace(MADE, picture=f"../{number}.png"))
        read(tmp_path), latest(tmp_path, "../0.png"), is_ours(tmp_path, "../0.png", "hash")
    assert len(parsed) == 50


def test_a_stamp_of_its_own_for_each_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    seen = [(stamp(one), stamp(two), stamp())]
    for folder, entry in ((one, replace(MADE, review="redo")), (two, replace(MADE, review="redo")), (one, replace(MADE, status="failed"))):
        append(folder, entry)
        seen.append((stamp(one), stamp(two), stamp()))
    append(one, replace(MADE, review="accepted"))
    assert (stamp(one), stamp(two), stamp()) == seen[-1]
    changed = [tuple(before != after for before, after in zip(first, second, strict=True)) for first, second in pairwise(seen)]
    assert changed == [(True, False, True), (False, True, True), (True, False, True)]


def test_who_edits_is_alone(tmp_path: Path) -> None:
    """The lock is held over looking and writing: no mark of another thread falls in between and is lost."""
    append(tmp_path, replace(MADE, seconds=0.0))

    def count() -> None:
        for _ in range(20):
            with EDITING:
                last = latest(tmp_path, MADE.picture)
                assert last is not None
                append(tmp_path, replace(last, seconds=last.seconds + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(tmp_path)[MADE.picture].seconds == 80


def test_a_stamp_that_cannot_be_written_costs_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user").write_text("a file")
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    append(tmp_path, replace(MADE, status="failed"))
    assert read(tmp_path)[MADE.picture].status == "failed"
    assert stamp(tmp_path) == stamp() == ""
