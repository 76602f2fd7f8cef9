"""PDF files for tests, written by hand: what a page shows, what it only says, and what is wrong with a file."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING

from langchain_core.messages import HumanMessage

if TYPE_CHECKING:
    from collections.abc import Sequence


def shown(text: str, *, at: tuple[int, int] = (60, 700), points: float = 18, grey: float = 0.0, mode: int = 0) -> str:
    """Return drawing commands for a line of text; mode 3 draws nothing."""
    return f"BT {mode} Tr {grey} g /F1 {points} Tf 1 0 0 1 {at[0]} {at[1]} Tm ({text}) Tj ET\n"


def pdf(*pages: str, box: Sequence[float] = (0, 0, 595, 842), rotate: int = 0, count: int | None = None) -> bytes:
    """Return a PDF with one page for each drawing, in Helvetica."""
    media = " ".join(map(str, box))
    kids = " ".join(f"{4 + 2 * at} 0 R" for at in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages) if count is None else count} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for at, drawing in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [{media}] /Rotate {rotate} /Contents {5 + 2 * at} 0 R "
            f"/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        stream = zlib.compress(drawing.encode("latin-1"))
        objects.append(f"<< /Length {len(stream)} /Filter /FlateDecode >>\nstream\n".encode() + stream + b"\nendstream")
    return with_objects(objects)


def with_objects(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """Return a PDF of numbered objects, the first of which is its catalogue."""
    out, places = bytearray(b"%PDF-1.7\n"), []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{place:010d} 00000 n \n".encode() for place in places)
    out += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R ".encode() + trailer
    return bytes(out) + f" >>\nstartxref\n{start}\n%%EOF\n".encode()


def locked() -> bytes:
    """Return a PDF that asks for a password."""
    one = pdf(shown("nothing to see"))
    secret = b"<" + b"ab" * 32 + b">"
    entry = b"/Encrypt << /Filter /Standard /V 1 /R 2 /O " + secret + b" /U " + secret + b" /P -4 >>"
    return one.replace(b"/Root 1 0 R ", b"/Root 1 0 R " + entry + b" /ID [<00> <00>] ")


def message_with(document: bytes, text: str = "what does it say ?") -> HumanMessage:
    """Return a question about a document, in LangChain's standard block."""
    block = {"type": "file", "base64": base64.b64encode(document).decode(), "mime_type": "application/pdf"}
    return HumanMessage([{"type": "text", "text": text}, block])
