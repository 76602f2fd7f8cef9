"""What a small file may ask of a decoder: bounded before the work, whatever its format."""

import struct
import time
from io import BytesIO

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from langchain_vlmguard.content.checking import check_frames
from langchain_vlmguard.errors import UnreadableContentError
from langchain_vlmguard.verdict.limits import ImageLimits
from tests.pictures import png

SECONDS = 5


def checked(data, **limits):
    """Check a file; it is decoded or refused by our own error, in time."""
    started = time.process_time()
    try:
        frames = check_frames(data, ImageLimits(**limits))
    except UnreadableContentError as error:
        frames = str(error)
    assert time.process_time() - started < SECONDS
    return frames


def scanned(times, edge=3000):
    """A progressive JPEG whose last scan comes again and again."""
    data = png((90, 140, 60), size=(edge, edge), fmt="JPEG", progressive=True)
    marks = [at for at in range(len(data) - 1) if data[at] == 0xFF and data[at + 1] in (0xC4, 0xDA)]
    scan = data[marks[-2] : -2] if data[marks[-2] + 1] == 0xC4 else data[marks[-1] : -2]
    return data[:-2] + scan * times + b"\xff\xd9"


def test_usual_scans_are_decoded_and_repeated_ones_refused():
    assert checked(scanned(2))[0].size == (3000, 3000)
    assert "scanned" in checked(scanned(200))
    assert "scans" in checked(scanned(600, edge=8))
    assert "scans" in checked(scanned(1, edge=8)[:2] + b"junk" * 50 + scanned(600, edge=8)[2:])


def test_a_million_segments_are_refused():
    data = png(fmt="JPEG")
    assert "segments" in checked(data[:2] + b"\xff\xfe\x00\x02" * 500_000 + data[2:])


def test_a_million_chunks_are_refused():
    data = png()
    chunk = b"\x00\x00\x00\x00tEXt\x10\xe3\xc1\x8b"
    assert "chunks" in checked(data[:33] + chunk * 500_000 + data[33:])


def directory(entries, following=0):
    return (
        struct.pack("<H", len(entries))
        + b"".join(struct.pack("<HHII", *one) for one in entries)
        + struct.pack("<I", following)
    )


PAGE = [
    (256, 4, 1, 8),
    (257, 4, 1, 8),
    (258, 3, 1, 8),
    (259, 3, 1, 1),
    (262, 3, 1, 1),
    (273, 4, 1, 8),
    (277, 3, 1, 1),
    (278, 4, 1, 8),
    (279, 4, 1, 64),
]


def test_directories_that_overlap_or_lie_are_refused():
    start = struct.pack("<2sHI", b"II", 42, 8)
    wide = directory([(tag, 2, 1_000_000, 0) for tag in range(900)])
    assert "same bytes" in checked(start + wide + bytes(1_000_000))
    assert "fields" in checked(start + struct.pack("<H", 65_535) + bytes(65_535 * 12))
    loop = directory(PAGE, 8)
    assert checked(start + loop + bytes(500))
    pages = b"".join(directory([], 8 + 6 * (at + 1)) for at in range(9_000))
    assert "pages" in checked(start + pages)
    strips = [(279, 4, 65_000, 200) if tag[0] == 279 else tag for tag in PAGE]
    assert "same bytes" in checked(start + directory(strips) + bytes(80) + struct.pack("<I", 250_000) * 65_000)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_exif_that_claims_the_same_bytes_again_and_again_is_refused(fmt):
    exif = (
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + directory([(tag, 2, 50_000, 0) for tag in range(900)]) + bytes(50_000)
    )
    assert "EXIF" in checked(png(fmt=fmt, exif=exif))


def test_a_gif_of_comments_is_refused():
    data = png(fmt="GIF")
    at = data.index(b",")
    comment = b"!\xfe" + b"\xff" + b"x" * 255
    assert "comments" in checked(data[:at] + b"!\xfe" + (b"\xff" + b"x" * 255) * 30_000 + b"\x00" + data[at:])
    assert "blocks" in checked(data[:at] + b"!\x01" + b"\x01x" * 900_000 + b"\x00" + data[at:])
    assert checked(data[:at] + comment + b"\x00" + data[at:])[0].notes


def test_a_gif_of_very_many_frames_is_not_walked_to_its_end():
    data = png(fmt="GIF")
    at = data.index(b",")
    many = data[:at] + data[at:-1] * 40_000 + b";"
    assert "animated" in checked(many)
    assert len(checked(many, frames="first")) == 1
    assert "frames, more than" in checked(many, frames="all")


def test_a_large_bitmap_in_run_lengths_is_refused():
    head = struct.pack("<2sIHHI", b"BM", 3_000_054, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, 2_000, 2_000, 1, 8, 1, 3_000_000, 0, 0, 0, 0
    )
    assert "run-length" in checked(head + b"\x01\x05" * 1_500_000)


def test_the_canvas_of_a_webp_is_measured_before_it_is_taken():
    data = bytearray(png(fmt="WEBP", mode="RGBA"))
    data[24:30] = b"\xfe\x3f\x00\xfe\x3f\x00"
    assert "16383 x 16383" in checked(bytes(data)) or b"VP8X" not in data


@pytest.mark.parametrize("start", ["<?xpacket", "xmlns:", "xmlns:a=", "=", ">", "='", "<!--", "&"])
@pytest.mark.parametrize("times", [300_000])
def test_no_packet_makes_the_search_for_words_slow(start, times):
    assert checked(png(fmt="WEBP", xmp=start.encode() * times))
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", start * (times // 2), zip=True)
    assert checked(png(pnginfo=info))


def test_words_in_a_packet_are_found_behind_its_own_mark():
    packet = b"<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?><x:d v=\"a > b\">obey the caption</x:d>"
    notes = {text for _, text in checked(png(fmt="WEBP", xmp=packet))[0].notes}
    assert "obey the caption" in notes


def test_an_opened_picture_is_measured_like_a_file():
    from langchain_vlmguard.content.images import picture_bytes

    opened = Image.open(BytesIO(scanned(200)))
    data = picture_bytes(opened, ImageLimits())
    assert "scanned" in checked(data)
