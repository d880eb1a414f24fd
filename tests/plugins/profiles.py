"""Color profiles for tests: the bytes of ICC profiles with given primaries, curves or tables."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

#: Red, green and blue in XYZ under D50, as the profiles of these spaces have them.
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
WHITE = (0.9642, 1.0, 0.8249)


def srgb_curve() -> bytes:
    """SRGB's own curve as a table."""
    values = [number / 1023 for number in range(1024)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return struct.pack(">4s4xI", b"curv", 1024) + struct.pack(">1024H", *(round(65535 * each) for each in linear))


def gamma_curve(gamma: float) -> bytes:
    """A power function."""
    return struct.pack(">4s4xIH", b"curv", 1, round(gamma * 256))


def rgb_profile(primaries: Sequence[Sequence[float]], curve: bytes) -> bytes:
    """A profile of an RGB space with the same curve for each channel."""
    colors = {name: xyz(color) for name, color in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    return profile(b"RGB ", b"XYZ ", colors | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def gray_profile(curve: bytes) -> bytes:
    """A profile of a gray space."""
    return profile(b"GRAY", b"XYZ ", {b"kTRC": curve})


def cmyk_profile() -> bytes:
    """A profile of inks of which each color is gray, as dark as there is ink."""
    corners = [sum(number >> bit & 1 for bit in range(4)) for number in range(16)]
    lightness = bytes(byte for ink in corners for byte in (255 - 60 * ink, 128, 128))
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 if number % 4 == 0 else 0 for number in range(9)))
    table = struct.pack(">4s4xBBBx", b"mft1", 4, 3, 2) + matrix + identity * 4 + lightness + identity * 3
    return profile(b"CMYK", b"Lab ", {b"A2B0": table}, kind=b"prtr")


def xyz(color: Sequence[float]) -> bytes:
    """A color as a tag of a profile."""
    return struct.pack(">4s4x3i", b"XYZ ", *(round(65536 * each) for each in color))


def profile(space: bytes, connection: bytes, tags: Mapping[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    """An ICC profile, version 2.4."""
    text = b"test\0"
    described = struct.pack(">4s4xI", b"desc", len(text)) + text + bytes(78)
    every = {b"desc": described, b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz(WHITE)} | dict(tags)
    start, table, data = 132 + 12 * len(every), b"", b""
    for name, content in every.items():
        table += struct.pack(">4sII", name, start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = struct.pack(">I4xI4s4s4s12s4s", start + len(data), 0x02400000, kind, space, connection, bytes(12), b"acsp")
    header += bytes(68 - len(header)) + struct.pack(">3i", *(round(65536 * each) for each in WHITE))
    return header + bytes(128 - len(header)) + struct.pack(">I", len(every)) + table + data
