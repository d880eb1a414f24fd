"""The members of a tar archive, found from its headers alone: no data is read and nothing is unpacked.

The readers of `tarfile` and `webdataset` accept an archive that is truncated between two members, or whose headers are
damaged, as a shorter one; a dataset that silently lost samples would train on other data than the recipe describes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from attrs import frozen

#: Reads so many bytes from an offset on, fewer at the end, as `os.pread` does.
Read = Callable[[int, int], bytes]


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Bytes of an open file; its position is undefined afterwards."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows
    return os.read(descriptor, size)


BLOCK = 512
ZEROS = bytes(BLOCK)

#: Names and attributes before a header may take this many bytes.
LONGEST_EXTENSION = 1 << 20

#: How much of the zeros after the last member is read at once.
CHUNK = 1 << 16

#: Zeros that may follow the last member: writers fill up a block of at most some MiB.
LONGEST_END = 1 << 26

#: What a member is, by the byte in its header; `7` is stored like any file.
KINDS = {
    b"\0": "file",
    b"0": "file",
    b"7": "file",
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"5": "folder",
    b"6": "pipe",
    b"S": "sparse file",
}

#: Headers that extend the next one: GNU's long names, and attributes by POSIX for one member and for all.
GNU_NAME, GNU_LINK, PAX, PAX_ALL = b"L", b"K", b"x", b"g"

#: How compressed files start, which are often mistaken for shards.
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class TarError(ValueError):
    """Why the rest of an archive cannot be read, as the predicate of a sentence, with notes for a Problem."""

    def __init__(self, message: str, *, name: bytes = b"", last: str = "") -> None:
        super().__init__(message)
        notes = (
            ("received", name and f"a header with the name `{_shortened(name)}`"),
            ("status", last and f"the last intact member is `{_shortened(last)}`"),
        )
        self.notes = tuple((label, str(text)) for label, text in notes if text)


@frozen
class Member:
    """One entry: its name (bytes that are not UTF-8 as surrogates), its kind, and where header and data are."""

    name: str
    kind: str
    header: int
    offset: int
    size: int


@frozen
class _Header:
    name: bytes
    flag: bytes
    size: int


def members(read: Read, length: int, headers: Callable[[bytes], None]) -> Iterator[Member]:
    """The members of an archive of `length` bytes, in order; `headers` is called with every byte that is read.

    Raises TarError where the archive is truncated or damaged: every header must match its checksum, data must be within
    the file, and the end must be two blocks of zeros with nothing but zeros after them. So a truncation is found
    wherever it is, and so is any one changed byte of a header.
    """
    offset, begin, last = 0, 0, ""
    name: bytes | None = None
    size: int | None = None
    while (block := read(BLOCK, offset)) != ZEROS:
        header = _parse(block, offset, last)
        headers(block)
        data = offset + BLOCK
        if header.flag in (GNU_NAME, GNU_LINK, PAX, PAX_ALL):
            content = _extension(read, header, data, length)
            headers(content)
            attributes = _attributes(content, offset) if header.flag in (PAX, PAX_ALL) else {}
            if header.flag == PAX_ALL and attributes.keys() & {b"path", b"size"}:
                raise TarError(f"is not supported: the header at byte {offset} sets one name or size for all members")
            if header.flag == PAX:
                name = attributes.get(b"path", name)
                size = _number(attributes[b"size"], offset) if b"size" in attributes else size
            elif header.flag == GNU_NAME:
                name = content.split(b"\0", 1)[0]
            offset = data + _padded(header.size)
            continue
        member = _member(header, name, size, begin, data)
        if data + member.size > length:
            present = f"only {max(0, length - data):,} of its {member.size:,} bytes are present"
            raise TarError(f"is truncated: member `{_shortened(member.name)}` starts at byte {begin}, and {present}")
        yield member
        offset = begin = data + _padded(member.size)
        name, size, last = None, None, member.name
    if offset != begin:
        raise TarError(f"is damaged: it ends after the long name or attributes of a member at byte {begin}")
    _check_end(read, offset, length, last, headers)


def _member(header: _Header, name: bytes | None, size: int | None, begin: int, data: int) -> Member:
    full_name = (header.name if name is None else name).decode("utf-8", "surrogateescape")
    kind = KINDS.get(header.flag) or f"entry of type `{header.flag.decode('utf-8', 'surrogateescape')}`"
    if kind == "file" and full_name.endswith("/"):
        kind = "folder"  # in archives older than POSIX
    stored = header.size if size is None else size
    # Only these have data; the size of a link is that of what it points to.
    return Member(full_name, kind, begin, data, 0 if header.flag in b"123456" else stored)


def _parse(block: bytes, offset: int, last: str) -> _Header:
    """A header that matches its checksum; raises TarError for anything else."""
    if len(block) < BLOCK:
        end = offset + len(block)
        message = f"is truncated at byte {end}: the two blocks of zeros at the end of an archive are missing"
        raise TarError(message, last=last)
    name = block[:100].split(b"\0", 1)[0]
    total = sum(block) - sum(block[148:156]) + 8 * 0x20
    # Each of the forms in which the number is written; no changed byte turns one into another.
    if block[148:156] not in (b"%06o\0 " % total, b"%07o\0" % total, b"%06o \0" % total):
        if offset == 0 and block[257:262] != b"ustar":
            raise TarError(f"is not a tar archive{_compression(block)}")
        raise TarError(f"is damaged: the header at byte {offset} does not match its checksum", name=name, last=last)
    if block[257:265] not in (b"ustar\x0000", b"ustar  \0"):
        raise TarError(f"is not supported: the header at byte {offset} is neither POSIX nor GNU tar", name=name)
    prefix = block[345:500].split(b"\0", 1)[0] if block[263:265] == b"00" else b""
    full_name = prefix + b"/" + name if prefix else name
    return _Header(full_name, block[156:157], _size(block[124:136], offset))


def _size(field: bytes, offset: int) -> int:
    """Octal digits or, for sizes from 8 GiB, a marked number in base 256."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise TarError(f"is damaged: the header at byte {offset} has the size `{_shortened(field)}`")
    return int(digits or b"0", 8)


def _number(text: bytes, offset: int) -> int:
    if not text.isdigit() or len(text) > 19:
        raise TarError(f"is damaged: the attributes at byte {offset} have the size `{_shortened(text)}`")
    return int(text)


def _extension(read: Read, header: _Header, data: int, length: int) -> bytes:
    """What is stored before a header, such as a name too long for it."""
    if header.size > LONGEST_EXTENSION:
        message = f"the name or attributes at byte {data} take {header.size:,} bytes, more than {LONGEST_EXTENSION:,}"
        raise TarError(f"is not supported: {message}")
    content = read(header.size, data)
    if len(content) < header.size:
        raise TarError(f"is truncated at byte {length}, inside the long name or attributes of a member")
    return content


def _attributes(content: bytes, offset: int) -> dict[bytes, bytes]:
    """POSIX's records `length key=value`, each with a line break, which the length includes."""
    attributes, rest = {}, content
    while rest.strip(b"\0"):
        digits, _, _ = rest.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 10 else 0
        key, equals, value = rest[len(digits) + 1 : max(0, length - 1)].partition(b"=")
        if not equals or length > len(rest) or rest[length - 1 : length] != b"\n":
            raise TarError(f"is damaged: the attributes at byte {offset} are `{_shortened(rest)}`")
        if key.startswith(b"GNU.sparse."):
            raise TarError(f"is not supported: the member at byte {offset} is a sparse file")
        attributes[key] = value
        rest = rest[length:]
    return attributes


def _check_end(read: Read, offset: int, length: int, last: str, headers: Callable[[bytes], None]) -> None:
    """Require two blocks of zeros, and nothing but zeros after them."""
    headers(ZEROS)
    if length < offset + 2 * BLOCK:
        message = f"is truncated at byte {length}: one of the two blocks of zeros at the end of an archive is missing"
        raise TarError(message, last=last)
    if length - offset > LONGEST_END:
        message = f"{length - offset:,} bytes follow the block of zeros at byte {offset} that ends it"
        raise TarError(f"is damaged: {message}", last=last)
    while content := read(CHUNK, offset):
        if content.count(0) != len(content):
            at = offset + next(place for place, byte in enumerate(content) if byte)
            raise TarError(f"is damaged: there is data at byte {at}, after the block of zeros that ends it", last=last)
        offset += len(content)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _shortened(name: str | bytes) -> str:
    text = name[:200].decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    return text if len(text) <= 80 else text[:77] + "..."


def _compression(block: bytes) -> str:
    name = next((name for start, name in COMPRESSED.items() if block.startswith(start)), None)
    return f": it is compressed with {name}, so that no sample can be read by its position" if name else ""
