"""Mutations that know how picture files are built: they repeat scans, directories, packets and chunks, and lie about counts."""

import random
import struct

from langchain_vlmguard.content.containers import jpeg_segments, png_chunks

TIFF = (b"II*\x00", b"MM\x00*")
MOST_TIMES = 400


def repeated(data, start, end, rng):
    """Repeat a part of a file in its place."""
    return data[:end] + data[start:end] * rng.randrange(1, MOST_TIMES) + data[end:]


def one_of(parts, rng):
    parts = list(parts)
    return rng.choice(parts)[-2:] if parts else (0, 0)


def jpeg(data, rng):
    if rng.random() < 0.3:
        packet = rng.choice(
            [
                b"http://ns.adobe.com/xap/1.0/\x00" + xmp(rng),
                b"Exif\x00\x00" + tiff(TINY, rng),
                b"MPF\x00" + tiff(TINY, rng),
            ]
        )
        mark = b"\xff\xe2" if packet.startswith(b"MPF") else b"\xff\xe1"
        return data[:2] + mark + struct.pack(">H", min(65_535, len(packet) + 2)) + packet[:65_533] + data[2:]
    return repeated(data, *one_of(jpeg_segments(data), rng), rng)


def png(data, rng):
    if rng.random() < 0.3:
        kind, body = rng.choice(
            [(b"eXIf", tiff(TINY, rng)), (b"iTXt", b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + xmp(rng))]
        )
        return data[:33] + struct.pack(">I", len(body)) + kind + body + bytes(4) + data[33:]
    return repeated(data, *one_of(png_chunks(data), rng), rng)


def gif(data, rng):
    blocks = [at for at in range(13, len(data)) if data[at] in b"!,"]
    start = rng.choice(blocks) if blocks else 13
    if rng.random() < 0.5:
        return data[:start] + b"!\xfe" + b"\x09a comment" * rng.randrange(1, MOST_TIMES) + b"\x00" + data[start:]
    return data[:start] + data[start:-1] * rng.randrange(1, MOST_TIMES) + data[-1:]


def tiff(data, rng):
    """Repeat entries, claim more of them or more values, or let directories follow each other."""
    order = ">" if data[:1] == b"M" else "<"
    at = struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + "H", data, at)[0]
    entries = [data[at + 2 + 12 * number : at + 14 + 12 * number] for number in range(min(count, 60))]
    how = rng.randrange(4)
    if how == 0:
        entries *= rng.randrange(1, 30)
    if how == 1 and entries:
        tags = rng.sample(range(65_536), rng.randrange(1, 300))
        entries += [
            struct.pack(
                order + "HHII", tag, rng.randrange(1, 14), rng.choice([9, 65_535, 2**31]), rng.randrange(len(data))
            )
            for tag in tags
        ]
    following = rng.choice([0, 8, at, len(data) + 2, len(data)])
    claimed = rng.choice([len(entries)] * 3 + [65_535])
    new = struct.pack(order + "H", claimed) + b"".join(entries) + struct.pack(order + "I", following)
    return data[:4] + struct.pack(order + "I", len(data)) + data[8:] + new * (rng.randrange(1, 100) if how == 3 else 1)


def webp(data, rng):
    kind, body = rng.choice([(b"EXIF", tiff(TINY, rng)), (b"XMP ", xmp(rng)), (b"ANMF", bytes(24))])
    chunk = kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    extended = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes([rng.randrange(64), 0, 0, 0])
        + rng.randbytes(2)
        + b"\x00"
        + rng.randbytes(2)
        + b"\x00"
    )
    whole = b"WEBP" + extended + data[12:] + chunk * rng.randrange(1, 20)
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def xmp(rng):
    return rng.choice([b"<?xpacket", b"xmlns:a", b"=' ", b'="', b">", b"tiff:Orientation=", b"&#x41;"]) * rng.randrange(
        1, 3_000
    )


TINY = b"II*\x00\x08\x00\x00\x00" + struct.pack("<HHHII", 1, 0x010E, 2, 4, 0x616161) + bytes(4)
KNOWN = (
    (b"\xff\xd8", jpeg),
    (b"\x89PNG", png),
    (b"GIF8", gif),
    (b"II*\x00", tiff),
    (b"MM\x00*", tiff),
    (b"RIFF", webp),
)


def mutated(data, seed):
    """Return a file of the same format with more of something in it; `None` where it cannot be taken apart."""
    rng = random.Random(seed)
    for mark, change in KNOWN:
        if data.startswith(mark):
            try:
                return change(data, rng)
            except (struct.error, IndexError, ValueError):
                return None
    return None
