"""How much a conversation may hold and a picture may cost: a part of the policy, and the very object that the reader takes."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from langchain_vlmguard.errors import extra

Frames = Literal["refuse", "first", "all"]


class ImageLimits(BaseModel):
    """How much a picture may cost, and what of it is read.

    ??? example "Small pictures, every frame of them"

        ```python
        limits = ImageLimits(max_bytes=1_000_000, frames="all")
        check_frames(data, limits)
        ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_bytes: int = Field(default=10_000_000, gt=0)
    """Size of the file."""

    max_pixels: int = Field(default=40_000_000, gt=0)
    """Width times height, of all frames together if all are read."""

    max_ratio: float = Field(default=100.0, ge=1)
    """Longer edge over shorter one."""

    max_frames: int = Field(default=16, ge=1)
    """Frames of an animated picture, if all are read."""

    frames: Frames = "refuse"
    """Of an animated picture: nothing, the first frame, or each frame as a picture of its own. A model gets what was read."""

    heif: bool = False
    """Read HEIC and AVIF too (extra `heif`)."""

    isolate: bool = False
    """Decode in a process of its own, which costs some tenths of a second for each new picture."""

    seconds: float = Field(default=20.0, gt=0)
    """Most seconds that this process may take."""

    max_memory: int = Field(default=2_000_000_000, gt=0)
    """Most bytes that this process may take."""

    @model_validator(mode="after")
    def _heif_is_installed(self) -> Self:
        """Say at once that an extra is missing (`MissingExtraError`), not when the first photograph comes."""
        if self.heif:
            with extra("heif"):
                import_module("pillow_heif")
        return self


class PdfLimits(BaseModel):
    """Whether PDFs are read, and how much one may cost. It is read in a process of its own, always.

    ??? example "PDFs of three pages"

        ```python
        policy = GuardPolicy(pdf=True, max_pdf_pages=3)
        ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    read: bool = False
    """Read PDFs (extra `pdf`): a model gets each page as a picture, and the words that it shows, never the file."""

    max_bytes: int = Field(default=10_000_000, gt=0)
    """Size of the file."""

    max_pages: int = Field(default=8, ge=1)
    """Every page counts as one of the turn's pictures, too (`max_images`)."""

    max_text_chars: int = Field(default=100_000, gt=0)
    """Characters of all text layers together."""

    edge: int = Field(default=1600, ge=200, le=4000)
    """Pixels of a page's longer edge, as it is drawn."""

    seconds: float = Field(default=20.0, gt=0)
    """Most seconds that reading one may take."""

    max_memory: int = Field(default=2_000_000_000, gt=0)
    """Most bytes that reading one may take."""

    @model_validator(mode="after")
    def _pdfium_is_installed(self) -> Self:
        """Say at once that an extra is missing (`MissingExtraError`), not when the first document comes."""
        if self.read:
            with extra("pdf"):
                import_module("pypdfium2")
        return self


ImageHost = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(:[0-9]{1,5})?$", to_lower=True, max_length=253
    ),
]
"""A host's name, with `*.` for its subdomains and with a port if it is not 443."""


class ReadLimits(BaseModel):
    """How much may be judged at once. Whatever is over a limit is unread, and the policy decides about it.

    ??? example "Two small pictures at most"

        ```python
        policy = GuardPolicy(reading=ReadLimits(max_images=2, image=ImageLimits(max_bytes=1_000_000)))
        ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    image: ImageLimits = Field(default_factory=ImageLimits)
    """Of each picture."""

    pdf: PdfLimits = Field(default_factory=PdfLimits)
    """Of each PDF."""

    max_images: int = Field(default=8, ge=0)
    """Pictures of the current turn; frames count."""

    max_earlier_images: int = Field(default=64, ge=0)
    """Pictures of earlier turns that a model still gets, the newest ones; with an evidence reader at most `max_images`."""

    max_text_chars: int = Field(default=100_000, gt=0)
    """Characters that people wrote in the current turn, and characters of each answer or tool result in it."""

    max_blocks: int = Field(default=2_000, gt=0)
    """Parts of the current turn."""

    hosts: frozenset[ImageHost] = frozenset()
    """Hosts from which pictures are fetched by address, over https: `"img.example.com"`, `"*.example.com"` for subdomains,
    `"img.example.com:8443"` for another port. Addresses are refused if it is empty."""
