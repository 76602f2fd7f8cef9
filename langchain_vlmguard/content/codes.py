"""QR codes and barcodes, through zxing-cpp (extra `evidence`)."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from langchain_vlmguard.content.ocr import Line
from langchain_vlmguard.errors import extra

if TYPE_CHECKING:
    from PIL import Image


def read_codes(image: Image.Image) -> list[tuple[str, Line]]:
    """Return the readable codes of an RGB picture, turned and inverted ones too, as format and payload.

    Raises:
        MissingExtraError: The extra is not installed.
    """
    with extra("evidence"):
        import zxingcpp
    found = zxingcpp.read_barcodes(image.convert("RGB"))
    return [(code.format.name, Line(code.text, 1.0, _box(code.position, image.size))) for code in found if code.text]


def check_code_reader() -> None:
    """Check that the reader is installed.

    Raises:
        MissingExtraError: It is not.
    """
    with extra("evidence"):
        import_module("zxingcpp")


def reader_identity() -> str:
    """Name and version of the reader."""
    try:
        return f"zxing-cpp {version('zxing-cpp')}"
    except PackageNotFoundError:
        return "zxing-cpp missing"


def _box(position: object, size: tuple[int, int]) -> tuple[float, float, float, float]:
    corners = [getattr(position, name) for name in ("top_left", "top_right", "bottom_right", "bottom_left")]
    across, down = [corner.x / size[0] for corner in corners], [corner.y / size[1] for corner in corners]
    return max(0.0, min(across)), max(0.0, min(down)), min(1.0, max(across)), min(1.0, max(down))
