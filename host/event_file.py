"""TensorBoard event files without TensorBoard: records of TensorFlow's format that hold hand-encoded protocol buffers.

A record (tensorflow/core/lib/io/record_writer.h): length uint64, masked CRC-32C of those 8 bytes, data, masked CRC-32C of the data.
The data is an Event (tensorflow/core/util/event.proto); field numbers are noted where they are written.
"""
from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protocol buffer wire types
SESSION_START = 1
POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed


class EventFile:
    """One run's scalars and pictures; every event is on disk when its call returns."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """`first_step`: TensorBoard drops what earlier files of the folder say of this step and later ones."""
        folder.mkdir(parents=True, exist_ok=True)
        self.file: BinaryIO = _new_file(folder).open("xb")
        self._write(_bytes(3, b"brain.Event:2"))  # file_version
        self._write(_varint(2, first_step) + _bytes(7, _varint(1, SESSION_START)))  # session_log.status

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._summary(step, [_bytes(1, tag.encode()) + _key(2, FIXED32) + struct.pack("<f", value) for tag, value in values.items()])

    def picture(self, step: int, tag: str, png: bytes, width: int, height: int) -> None:
        image = _varint(1, height) + _varint(2, width) + _varint(3, 3) + _bytes(4, png)  # 3 colours
        self._summary(step, [_bytes(1, tag.encode()) + _bytes(4, image)])

    def close(self) -> None:
        self.file.close()

    def _summary(self, step: int, values: list[bytes]) -> None:
        if values:
            self._write(_varint(2, step) + _bytes(5, b"".join(_bytes(1, value) for value in values)))  # summary.value

    def _write(self, event: bytes) -> None:
        data = _key(1, FIXED64) + struct.pack("<d", time.time()) + event  # wall_time
        self.file.write(record(data))
        self.file.flush()


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(crc32c(length))) + data + struct.pack("<I", masked(crc32c(data)))


def masked(crc: int) -> int:
    """TensorFlow stores checksums rotated and shifted, so that a checksum of data with checksums in it stays a good one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """RFC 3720, appendix B.4."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _table_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = tuple(map(_table_entry, range(256)))


def _new_file(folder: Path) -> Path:
    """TensorBoard reads files in the order of their names."""
    start, number = f"events.out.tfevents.{int(time.time()):010d}", 0
    while (file := folder / f"{start}.{number:03d}.masked_lora").exists():
        number += 1
    return file


def _key(field: int, wire: int) -> bytes:
    return _base128(field << 3 | wire)


def _varint(field: int, value: int) -> bytes:
    return _key(field, VARINT) + _base128(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, BYTES) + _base128(len(value)) + value


def _base128(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
