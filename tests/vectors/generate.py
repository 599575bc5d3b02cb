#!/usr/bin/env python3
"""Writes packets.json beside it: messages of docs/protocol.md to the byte, made from the documents alone."""
import json
import math
import pathlib
import struct


def value(code):
    """docs/model.md, "Codes"."""
    y = code / 255 * 2 - 1
    return math.copysign((256 ** abs(y) - 1) / 255, y)


def s16(code):
    scaled = value(code) * 32768
    return min(32767, int(math.copysign(math.floor(abs(scaled) + 0.5), scaled)))


FORMATS = {
    "mulaw": (1, lambda code: bytes([code])),
    "s16": (2, lambda code: struct.pack("<h", s16(code))),
    "f32": (3, lambda code: struct.pack("<f", value(code))),
}


def packet(format, sequence, codes):
    number, sample = FORMATS[format]
    header = struct.pack("<BBHQ", 1, number, len(codes), sequence)
    return header + b"".join(sample(code) for code in codes)


cases = [
    (500, bytes([128, 0, 255, 100])),
    (0, bytes(range(256))),
    (2**64 - 1, bytes([127])),
    (2**53 + 1, b""),
]
vectors = [
    {"format": format, "sequence": str(sequence), "codes": codes.hex(), "message": packet(format, sequence, codes).hex()}
    for sequence, codes in cases
    for format in FORMATS
]
good = packet("s16", 7, bytes([1, 2, 3]))
refused = [
    {"why": "shorter than its header", "message": good[:11].hex()},
    {"why": "cut in a sample", "message": good[:17].hex()},
    {"why": "longer than its header says", "message": (good + b"\0").hex()},
    {"why": "of another kind", "message": (b"\x02" + good[1:]).hex()},
    {"why": "of no format", "message": (good[:1] + b"\x04" + good[2:]).hex()},
    {"why": "empty", "message": ""},
]
text = json.dumps({"packets": vectors, "refused": refused}, indent=1)
pathlib.Path(__file__).with_name("packets.json").write_text(text + "\n")
