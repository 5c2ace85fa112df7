"""TFRecord files without TensorFlow: random access to records, each checked against its checksums.

A record on disk: its length (8 bytes, little endian), the masked CRC-32C of those 8 bytes, the data,
the masked CRC-32C of the data.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from jaxtune.errors import DataError, SourceError

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")


def _make_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)  # the Castagnoli polynomial, reversed
        table.append(byte)
    return tuple(table)


_TABLE = _make_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of ``data``."""
    table, crc = _TABLE, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """The checksum as TFRecord stores it: rotated, plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


class TfRecordFile:
    """The records of one uncompressed TFRecord file, in memory by page.

    Raises:
      SourceError: the file cannot be read, or its framing is damaged or compressed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes: mmap.mmap | bytes = (
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
                )
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None
        if self._bytes[:2] == b"\x1f\x8b":
            raise SourceError(f"{path}: a compressed TFRecord file; expected an uncompressed one (gunzip it)")
        self._spans = self._scan()

    def _scan(self) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        at, end = 0, len(self._bytes)
        while at < end:
            place = f"{self.path}: record {len(spans) + 1} at byte {at}"
            if at + _HEADER.size > end:
                raise SourceError(f"{place} is cut short; copy the file again")
            length, checksum = _HEADER.unpack_from(self._bytes, at)
            if masked_crc32c(self._bytes[at : at + 8]) != checksum:
                raise SourceError(f"{place}: the checksum of its length is wrong; copy the file again")
            start = at + _HEADER.size
            at = start + length + _CHECKSUM.size
            if at > end:
                raise SourceError(f"{place} is cut short; copy the file again")
            spans.append((start, length))
        return spans

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> bytes:
        start, length = self._spans[index]
        data = self._bytes[start : start + length]
        if masked_crc32c(data) != _CHECKSUM.unpack_from(self._bytes, start + length)[0]:
            raise DataError(f"{self.where(index)}: its checksum is wrong; copy the file again")
        return data

    def where(self, index: int) -> str:
        """``FILE: record N``, counted from 1."""
        return f"{self.path}: record {index + 1}"
