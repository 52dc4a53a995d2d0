"""TensorBoard's files, read back by a decoder of their own."""
from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pack.host.event_file import EventFile, crc32c, masked, record


@pytest.mark.parametrize(("data", "crc"), [  # RFC 3720, B.4
    (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E), (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b"123456789", 0xE3069283)])
def test_checksums_are_those_of_the_standard(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc


def test_a_record_is_framed_as_tensorflow_frames_it() -> None:
    """Written by tensorboard's RecordWriter (2.21) for b"abc"."""
    assert record(b"abc").hex() == GOLDEN
    assert masked(0) == 0xA282EAD8


GOLDEN = "0300000000000000b099490e6162636e57f121"


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value, byte, at, shift = value | (data[at] & 0x7F) << shift, data[at], at + 1, shift + 7
        if byte < 0x80:
            return value, at


def message(data: bytes) -> dict[int, list[int | bytes]]:
    """Fields of a protocol buffer: numbers as they are, everything longer as bytes."""
    fields: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(key & 7)
            if size is None:
                size, at = varint(data, at)
            value, at = data[at:at + size], at + size
        fields.setdefault(key >> 3, []).append(value)
    assert at == len(data)
    return fields


def events(file: Path) -> Iterator[dict[int, list[int | bytes]]]:
    data, at = file.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        assert struct.unpack_from("<I", data, at + 8) == (masked(crc32c(data[at:at + 8])),)
        body = data[at + 12:at + 12 + length]
        assert struct.unpack_from("<I", data, at + 12 + length) == (masked(crc32c(body)),)
        at += 16 + length
        yield message(body)


def scalars(file: Path) -> list[tuple[int, str, float]]:
    found = []
    for event in events(file):
        for summary in event.get(5, []):
            for value in message(summary)[1]:
                told = message(value)
                if 2 in told:
                    found.append((event.get(2, [0])[0], told[1][0].decode(), struct.unpack("<f", told[2][0])[0]))
    return found


def test_what_is_written_is_read_back_at_once(tmp_path: Path) -> None:
    log = EventFile(tmp_path / "logs", 301)
    log.scalars(300, {"loss/trained": 0.25, "step/learning rate": 1e-4})
    log.scalars(70_000, {})
    log.picture(300, "preview/0", b"\x89PNG" * 100, 640, 480)
    (file,) = (tmp_path / "logs").iterdir()  # not closed: a kill loses nothing
    assert scalars(file) == [(300, "loss/trained", 0.25), (300, "step/learning rate", struct.unpack("<f", struct.pack("<f", 1e-4))[0])]
    first, start, _, picture = events(file)
    assert first[3] == [b"brain.Event:2"]
    assert start[2] == [301]
    assert message(start[7][0]) == {1: [1]}
    assert struct.unpack("<d", first[1][0])[0] > 1.7e9
    image = message(message(message(picture[5][0])[1][0])[4][0])
    assert (image[1], image[2], image[3], image[4]) == ([480], [640], [3], [b"\x89PNG" * 100])
    log.close()


def test_files_of_one_second_keep_their_order(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        EventFile(tmp_path, 0).close()
        (new,) = {f.name for f in tmp_path.iterdir()} - set(names)
        names.append(new)
    assert names == sorted(names)
    assert all("tfevents" in name for name in names)
