"""Which libraries a Linux library needs, read from the file: the ELF format's DT_NEEDED entries."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_DYNAMIC = 6  # SHT_DYNAMIC, the type of the section that lists what the loader must know
_NEEDED = 1  # DT_NEEDED, an entry there: the name of a library


def needed(path: Path) -> list[str]:
    """The names of the libraries that a 64-bit little-endian ELF file needs; none if it is another kind of file."""
    try:
        with path.open("rb") as file:
            return _read(file)
    except (OSError, struct.error, IndexError, ValueError):
        return []


def _read(file: BinaryIO) -> list[str]:
    header = file.read(64)
    if header[:6] != b"\x7fELF\x02\x01":
        return []
    (table,) = struct.unpack_from("<Q", header, 0x28)
    entry_size, count = struct.unpack_from("<HH", header, 0x3A)
    sections = []
    for k in range(count):
        file.seek(table + k * entry_size)
        kind, _, _, offset, size, link = struct.unpack_from("<IQQQQI", file.read(44), 4)
        sections.append((kind, offset, size, link))
    for kind, offset, size, link in sections:
        if kind == _DYNAMIC:
            file.seek(offset)
            entries = struct.iter_unpack("<QQ", file.read(size - size % 16))
            file.seek(sections[link][1])
            strings = file.read(sections[link][2])
            return [strings[at : strings.index(b"\0", at)].decode() for tag, at in entries if tag == _NEEDED]
    return []
