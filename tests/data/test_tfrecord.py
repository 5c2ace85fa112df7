"""TFRecord framing: what was written is read, what was damaged is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.record_writer import RecordWriter

from jaxtune.data.sources.tfrecord import TfRecordFile, crc32c, masked_crc32c
from jaxtune.errors import DataError, SourceError


def framed(records):
    parts = []
    for data in records:
        length = struct.pack("<Q", len(data))
        parts += [
            length,
            struct.pack("<I", masked_crc32c(length)),
            data,
            struct.pack("<I", masked_crc32c(data)),
        ]
    return b"".join(parts)


def test_checksums_are_the_standard_ones():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"") == 0


def test_files_of_another_writer_are_read(tmp_path):
    writer = RecordWriter(str(tmp_path / "a.tfrecord"))
    writer.write(b"first")
    writer.write(b"")
    writer.close()
    assert read_all(tmp_path / "a.tfrecord") == [b"first", b""]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=12))
def test_records_come_back(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("records") / "a.tfrecord"
    path.write_bytes(framed(records))
    file = TfRecordFile(path)
    assert [file[i] for i in range(len(file))] == records


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 47), st.integers(0, 7))
def test_a_flipped_bit_is_found(tmp_path_factory, byte, bit):
    content = bytearray(framed([b"first", b"second word"]))
    content[byte] ^= 1 << bit
    path = tmp_path_factory.mktemp("records") / "a.tfrecord"
    path.write_bytes(content)
    with pytest.raises((SourceError, DataError), match=r"a\.tfrecord: record \d"):
        read_all(path)


def read_all(path):
    file = TfRecordFile(path)
    return [file[i] for i in range(len(file))]


def test_a_file_cut_short_is_refused(tmp_path):
    content = framed([b"first", b"second"])
    path = tmp_path / "a.tfrecord"
    for length in (len(content) - 1, len(framed([b"first"])) + 5):
        path.write_bytes(content[:length])
        with pytest.raises(SourceError, match=r"record 2 at byte 21 is cut short"):
            TfRecordFile(path)


def test_a_compressed_file_is_named(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(b"\x1f\x8b\x08rest")
    with pytest.raises(SourceError, match="compressed"):
        TfRecordFile(tmp_path / "a.tfrecord")
