"""The members of a tar archive, found by hopping from header to header; no data is read and nothing is unpacked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import frozen

from ..folder.files import shown

#: Gives so many bytes from an offset on, fewer at the end.
Read = Callable[[int, int], bytes]

BLOCK = 512
ZEROS = bytes(BLOCK)

#: Names and attributes that stand in front of a header may take this many bytes.
LONGEST_EXTENSION = 1 << 20

#: How much of the zeros behind the last member is read at once.
CHUNK = 1 << 16

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

#: Headers that say more about the next one: GNU's long names, and attributes by POSIX for one member and for all.
GNU_NAME, GNU_LINK, PAX, PAX_ALL = b"L", b"K", b"x", b"g"

#: How other kinds of files begin that are often taken for shards.
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Broken(ValueError):  # noqa: N818 - told as a Problem
    """An archive that cannot be followed any further, with notes for a Problem."""

    def __init__(self, message: str, **notes: str) -> None:
        super().__init__(message)
        self.notes = tuple((label.replace("_", " "), text) for label, text in notes.items() if text)


@frozen
class Member:
    """One entry: its name (bytes that are no UTF-8 as surrogates), what it is, and where header and data lie."""

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


def members(read: Read, length: int, seen: Callable[[bytes], None]) -> Iterator[Member]:
    """The members of the archive of `length` bytes, in order; `seen` is handed every byte that is read on the way.

    `read(size, offset)` gives bytes of it, as `os.pread` does.

    Raises Broken where the archive is cut or damaged: every header has to agree with its checksum,
    data have to lie within the file, and two blocks of zeros, with nothing but zeros behind them,
    have to end it. So a cut is found wherever it falls, and so is any one byte that has changed in a header.
    """
    offset, begin, last = 0, 0, ""
    name: bytes | None = None
    size: int | None = None
    while (block := read(BLOCK, offset)) != ZEROS:
        header = _parse(block, offset, last)
        seen(block)
        data = offset + BLOCK
        if header.flag in (GNU_NAME, GNU_LINK, PAX, PAX_ALL):
            content = _extension(read, header, data, length)
            seen(content)
            stated = _attributes(content, offset) if header.flag in (PAX, PAX_ALL) else {}
            if header.flag == PAX_ALL and stated.keys() & {b"path", b"size"}:
                raise Broken(f"the header at byte {offset} gives one name or size to all members, which is not read")
            if header.flag == PAX:
                name = stated.get(b"path", name)
                size = _number(stated[b"size"], offset) if b"size" in stated else size
            elif header.flag == GNU_NAME:
                name = content.split(b"\0", 1)[0]
            offset = data + _padded(header.size)
            continue
        member = _member(header, name, size, begin, data)
        if data + member.size > length:
            there = max(0, length - data)
            raise Broken(
                f"is cut: `{_short(member.name)}` at byte {begin} has {member.size} bytes, of which {there} are there"
            )
        yield member
        offset = begin = data + _padded(member.size)
        name, size, last = None, None, member.name
    if offset != begin:
        raise Broken(f"the archive ends behind byte {begin}, where a member's long name or attributes stand")
    _check_end(read, offset, length, last, seen)


def _member(header: _Header, name: bytes | None, size: int | None, begin: int, data: int) -> Member:
    named = (header.name if name is None else name).decode("utf-8", "surrogateescape")
    kind = KINDS.get(header.flag) or f"entry of kind `{shown(header.flag)}`"
    if kind == "file" and named.endswith("/"):
        kind = "folder"  # as archives older than POSIX have them
    stored = header.size if size is None else size
    # Only these have data; the size of a link is that of what it points to.
    return Member(named, kind, begin, data, 0 if header.flag in b"123456" else stored)


def _parse(block: bytes, offset: int, last: str) -> _Header:
    """A header whose checksum is right; raises Broken for anything else."""
    if len(block) < BLOCK:
        message = f"is cut at byte {offset + len(block)}: the two blocks of zeros that end an archive are missing"
        raise Broken(message, last_member=_short(last))
    name = block[:100].split(b"\0", 1)[0]
    total = sum(block) - sum(block[148:156]) + 8 * 0x20
    # Each of the forms in which the number is written; none of them becomes another by one changed byte.
    if block[148:156] not in (b"%06o\0 " % total, b"%07o\0" % total, b"%06o \0" % total):
        if offset == 0 and block[257:262] != b"ustar":
            raise Broken("is no tar archive" + _compressed(block))
        message = f"the header at byte {offset} is damaged: its bytes do not agree with its checksum"
        raise Broken(message, name_in_it=_short(name), behind=_short(last))
    if block[257:265] not in (b"ustar\x0000", b"ustar  \0"):
        raise Broken(f"the header at byte {offset} is neither POSIX's nor GNU's", name_in_it=_short(name))
    prefix = block[345:500].split(b"\0", 1)[0] if block[263:265] == b"00" else b""
    full = prefix + b"/" + name if prefix else name
    return _Header(full, block[156:157], _size(block[124:136], offset))


def _size(field: bytes, offset: int) -> int:
    """Octal digits, or, for sizes from 8 GiB on, a marked number in base 256."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise Broken(f"the header at byte {offset} states no size: `{shown(field)}`")
    return int(digits or b"0", 8)


def _number(text: bytes, offset: int) -> int:
    if not text.isdigit() or len(text) > 19:
        raise Broken(f"the attributes at byte {offset} state no size: `{_short(text)}`")
    return int(text)


def _extension(read: Read, header: _Header, data: int, length: int) -> bytes:
    """What stands in front of a header, such as a name too long for it."""
    if header.size > LONGEST_EXTENSION:
        raise Broken(f"the name or attributes at byte {data} take {header.size} bytes; {LONGEST_EXTENSION} are read")
    content = read(header.size, data)
    if len(content) < header.size:
        raise Broken(f"is cut at byte {length}, within a member's long name or attributes")
    return content


def _attributes(content: bytes, offset: int) -> dict[bytes, bytes]:
    """POSIX's records `length key=value` with a line break behind each, the length counting all of it."""
    found, rest = {}, content
    while rest.strip(b"\0"):
        digits, _, _ = rest.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 10 else 0
        key, equals, value = rest[len(digits) + 1 : max(0, length - 1)].partition(b"=")
        if not equals or length > len(rest) or rest[length - 1 : length] != b"\n":
            raise Broken(f"the attributes at byte {offset} are damaged: `{_short(rest)}`")
        if key.startswith(b"GNU.sparse."):
            raise Broken(f"the member at byte {offset} is a sparse file, which is not read")
        found[key] = value
        rest = rest[length:]
    return found


def _check_end(read: Read, offset: int, length: int, last: str, seen: Callable[[bytes], None]) -> None:
    """Two blocks of zeros, and behind them nothing else."""
    seen(ZEROS)
    if length < offset + 2 * BLOCK:
        message = f"is cut at byte {length}: of the two blocks of zeros that end an archive one is there"
        raise Broken(message, last_member=_short(last))
    while content := read(CHUNK, offset):
        if content.count(0) != len(content):
            at = offset + next(place for place, byte in enumerate(content) if byte)
            message = f"there are data at byte {at}, behind the block of zeros that ends an archive"
            raise Broken(message, last_member=_short(last))
        offset += len(content)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _short(name: str | bytes) -> str:
    text = shown(name[:200])
    return text if len(text) <= 80 else text[:77] + "..."


def _compressed(block: bytes) -> str:
    kinds = [kind for start, kind in COMPRESSED.items() if block.startswith(start)]
    return f": it is compressed by {kinds[0]}, and shards are read where they lie" if kinds else ""
