"""Whether a media file has all the bytes that its container declares.

Decoders read a file that was cut short (a broken download, a full disk) without a word, as a shorter clip. Most containers
state their size in the header, which finds every cut exactly. Those written to a pipe state none: then only durations can be
compared, see ``check_length`` in ``mm_balance.data.sound``.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

from mm_balance.data.files import DecodeError

UNKNOWN_SIZE = 0xFFFFFFFF
"""What writers to a pipe state as the size of a RIFF chunk, as they cannot go back."""
MOST_PARTS = 1_000
"""Chunks looked at: the size of a file is in one of its first ones, and a damaged file may have millions of empty ones."""
OGG_PAGE = 27 + 255 + 255 * 255
"""Largest page of an Ogg file, bytes."""
EBML_HEADER, EBML_SEGMENT, EBML_VOID = 0x1A45DFA3, 0x18538067, 0xEC
MP4_BOXES = frozenset(
    b"ftyp styp moov moof mdat free skip wide uuid meta udta sidx ssix emsg prft mfra pnot pdin PICT".split()
)
"""Types of boxes at the top of an MP4 file. Anything else is what a camera appended, in a format of its own."""
FLV_HEAD = 4096
"""Bytes in which an FLV file's metadata lie."""


def check_complete(file: BinaryIO) -> None:
    """Raise DecodeError if a file is shorter than its header says; the position in the file is 0 afterwards.

    Files of unknown formats pass, and so do those that state no size.
    """
    size = file.seek(0, io.SEEK_END)
    head = _read(file, 0, 12)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        _check_wav(file, size)
    elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        _check_avi(file, size)
    elif head[:4] == b"OggS":
        _check_ogg(file, size)
    elif head[:4] == b"\x1aE\xdf\xa3":
        _check_matroska(file, size)
    elif head[4:8] in MP4_BOXES:
        _check_mp4(file, size)
    elif head[:3] == b"FLV":
        _check_flv(file, size)
    file.seek(0)


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def _check_wav(file: BinaryIO, size: int) -> None:
    position, large = 12, UNKNOWN_SIZE
    for _ in range(MOST_PARTS):
        header = _read(file, position, 8)
        if len(header) < 8:
            return
        chunk, length = struct.unpack("<4sI", header)
        if chunk == b"ds64":  # the sizes of files above 4 GB, which have UNKNOWN_SIZE in the chunks themselves
            sizes = file.read(16)
            large = struct.unpack("<Q", sizes[8:])[0] if len(sizes) == 16 else UNKNOWN_SIZE
        if chunk == b"data":
            length = large if length == UNKNOWN_SIZE else length
            if length != UNKNOWN_SIZE and position + 8 + length > size:
                raise DecodeError(f"truncated: {size - position - 8} of {length} bytes of sound are present")
        position += 8 + length + length % 2


def _check_avi(file: BinaryIO, size: int) -> None:
    position = 0
    for _ in range(MOST_PARTS):  # files above 1 GB have several RIFF chunks
        header = _read(file, position, 8)
        if len(header) < 8 or header[:4] != b"RIFF":
            return
        length = struct.unpack("<I", header[4:])[0]
        if length in (0, UNKNOWN_SIZE):
            return
        _check_part(position + 8, length, size)
        position += 8 + length + length % 2


def _check_ogg(file: BinaryIO, size: int) -> None:
    tail = _read(file, max(0, size - OGG_PAGE), OGG_PAGE)
    page = tail[max(0, tail.rfind(b"OggS")) :]
    # Byte 5: flags, 4 = end of stream; byte 26: number of segments, whose lengths follow.
    if len(page) < 27 or not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        raise DecodeError("truncated: the last page of the OGG file is missing")


def _check_matroska(file: BinaryIO, size: int) -> None:
    position = 0
    for _ in range(MOST_PARTS):
        header = _read(file, position, 12)
        if not header or not header[0]:
            return
        # The number of leading zeros tells the length of both numbers. The identifier keeps the marker, the size does not.
        width = 9 - header[0].bit_length()
        identifier, rest = int.from_bytes(header[:width]), header[width:]
        if identifier not in (EBML_HEADER, EBML_SEGMENT, EBML_VOID) or not rest or not rest[0]:
            return
        digits = 9 - rest[0].bit_length()
        length = int.from_bytes(rest[:digits]) & ((1 << 7 * digits) - 1)
        if len(rest) < digits or length == (1 << 7 * digits) - 1:  # all ones: unknown, written to a pipe
            return
        _check_part(position + width + digits, length, size)
        position += width + digits + length


def _check_mp4(file: BinaryIO, size: int) -> None:
    position = 0
    for _ in range(MOST_PARTS):
        header = _read(file, position, 16)
        if len(header) < 8 or header[4:8] not in MP4_BOXES:
            return
        length, start = int.from_bytes(header[:4]), 8
        if length == 1:  # a size of 64 bits follows
            length, start = int.from_bytes(header[8:]), 16
        if length < start:  # 0: up to the end of the file
            return
        _check_part(position + start, length - start, size)
        position += length


def _check_flv(file: BinaryIO, size: int) -> None:
    """The size in the metadata is that of another file if a program copied it. So the last tag must be cut as well."""
    head = _read(file, 0, FLV_HEAD)
    place = head.find(b"\x00\x08filesize\x00")
    if place < 0 or len(head) < place + 19:
        return
    stated = struct.unpack(">d", head[place + 11 : place + 19])[0]
    if not stated > size:
        return
    # Every tag is followed by its length, in 4 bytes.
    length = int.from_bytes(_read(file, size - 4, 4))
    tag = _read(file, max(0, size - 4 - length), 4)
    if length < 11 or int.from_bytes(tag[1:4]) != length - 11:
        raise DecodeError(f"truncated: {size:,} of {stated:,.0f} bytes are present")


def _check_part(start: int, length: int, size: int) -> None:
    if start + length > size:
        raise DecodeError(f"truncated: {max(0, size - start):,} of {length:,} bytes are present")
