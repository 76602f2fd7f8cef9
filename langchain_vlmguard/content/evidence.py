"""Evidence: what pictures say, found without a model of ours: text by OCR, codes, metadata; each with how it was found."""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import re
import time
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Literal

from langchain_vlmguard.content.codes import check_code_reader, read_codes, reader_identity
from langchain_vlmguard.content.ocr import Box, Line, RapidOCRReader
from langchain_vlmguard.content.recent import Recent
from langchain_vlmguard.content.views import View, is_flat, seen_views, shrunk_views, turned, views_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image

    from langchain_vlmguard.content.images import CheckedPicture
    from langchain_vlmguard.content.ocr import OCR

_PLAIN = "as it is"
_LEAST_CONFIDENCE = 0.6
_LEAST_CONFIDENCE_BROUGHT_OUT = 0.75
"""For what only shows after the picture was changed: noise made visible is read as letters now and then."""

_SURE = 0.85
"""Less confident lines may be on their head, and are looked at again."""

_UPRIGHT = 1.3
"""Height over width of a line that stands on its side."""

_SAME = 0.8
_WORDS_TOGETHER = 60
_LINES_TOGETHER = 3
_MOST_PASSAGES = 64
_MOST_FINDINGS = 400
_KEPT_BYTES = 4_000_000

_ADDRESSES_A_MODEL = re.compile(
    r"\b(ignore|disregard|forget|override)\b.{0,40}\b(instruction|rule|prompt|question|request|guideline|said|above|previous)"
    r"|\b(system prompt|developer mode|jailbreak|you are now|new instructions?|do not (tell|mention|reveal|refuse))\b"
    r"|\b(assistant|ai model|language model|chatbot)\b.{0,40}\b(must|should|will|shall|please)\b",
    re.IGNORECASE,
)

_VERBS = """answer approve ask assemble build buy call click construct create delete describe design develop do draw
evade explain find follow forget forge generate get give help hide ignore install list make open order outline pay perform
pretend print provide publish put read remove repeat reply reveal run say sell send share show spread start steal summarize
tell teach translate transfer use visit write"""
_REQUEST_VERBS = "|".join(_VERBS.split())
_READS_AS_REQUEST = re.compile(
    r"(^|[.!?:;,]\s+|\b(and|but|now|on|please|must|should)\s+)(do not|don't|never|please|always|"
    rf"({_REQUEST_VERBS}))\s+\w+"
    r"|\b(how|where|when|what|who|why|which)\b.{0,30}\b(to|do|does|can|could|should|would|is|are)\b"
    r"|\b(steps?|methods?|ways?|instructions?|guide|recipe|tutorial|list|tips|strategies|techniques|process)\s+(to|for|of|on)\b"
    r"|\b(can|could|would|will) you\b|\?\s*$",
    re.IGNORECASE,
)


def reads_as_request(text: str) -> bool:
    """Whether English words read as a question, a request or an instruction; a keyword test without understanding."""
    plain = " ".join(text.split())
    return len(plain.split()) > 1 and _READS_AS_REQUEST.search(plain) is not None


@dataclass(frozen=True)
class Finding:
    """Something that a picture says. It was written by strangers."""

    kind: Literal["text", "code", "metadata"]
    text: str
    found_by: str
    """How it was found: the view of the picture, the code's format, or the metadata field."""

    confidence: float = 1.0
    """From 0 to 1, as the reader gives it; 1 for codes and metadata."""

    place: Box | None = None
    """Left, top, right, bottom as shares of the picture's edges; `None` for what is not in its pixels."""

    @property
    def addresses_model(self) -> bool:
        """Whether it speaks to an assistant rather than to people; a keyword test that finds the plain cases."""
        return _ADDRESSES_A_MODEL.search(" ".join(self.text.split())) is not None


@dataclass(frozen=True)
class PictureEvidence:
    """What one picture says."""

    findings: tuple[Finding, ...]
    readings: tuple[tuple[str, ...], ...] = ()
    """The lines of every view that showed text, repetitions included."""

    complete: bool = True
    """Whether every view was looked at in time."""

    @property
    def text(self) -> str:
        """Everything found, one finding a line."""
        return "\n".join(finding.text for finding in self.findings)

    @property
    def shown_text(self) -> str:
        """The text that shows at first sight, as one line."""
        return " ".join(f.text for f in self.findings if f.kind == "text" and f.found_by == _PLAIN)

    @property
    def requests(self) -> tuple[str, ...]:
        """The passages that read as a question, a request or an instruction, or speak to a model."""
        return tuple(p for p in self.passages if reads_as_request(p) or Finding("text", p, _PLAIN).addresses_model)

    @property
    def passages(self) -> tuple[str, ...]:
        """The texts to judge.

        What was read in one view together, top down and bottom up, in windows where it is long, and neighbouring lines; each
        code and each note by itself. A harmful request among much harmless text must not drown in it.
        """
        alone = ((finding.text,) for finding in self.findings if finding.kind != "text")
        found = chain.from_iterable(_passages(list(lines)) for lines in (*self.readings, *alone))
        return tuple(dict.fromkeys(found))[:_MOST_PASSAGES]


class EvidenceReader:
    """Reads what pictures say, in all views that bring hidden text out; a picture that was read is not read again.

    ??? example "One picture"

        ```python
        evidence = EvidenceReader().read(check_picture(data, ImageLimits()))
        [(finding.text, finding.found_by) for finding in evidence.findings]
        ```
    """

    def __init__(
        self, ocr: OCR | None = None, *, codes: bool = True, seconds: float = 60.0, max_concurrency: int = 2
    ) -> None:
        """Choose the reader of text.

        Args:
            ocr: RapidOCR when `None`; `TesseractReader` is the other one at hand.
            codes: Whether QR codes and barcodes are read too.
            seconds: For one picture; evidence that is not whole by then says so.
            max_concurrency: How many pictures are read at once.

        Raises:
            MissingExtraError: What the reader needs is not installed.
        """
        if codes:
            check_code_reader()
        self.ocr: OCR = ocr or RapidOCRReader()
        self.codes = codes
        self.seconds = seconds
        self.max_concurrency = max_concurrency
        self._slots = BoundedSemaphore(max_concurrency)
        self._recent: Recent[PictureEvidence] = Recent(_KEPT_BYTES)

    @cached_property
    def identity(self) -> str:
        """What a verdict calls this reader."""
        return f"{self.ocr.identity}; {reader_identity()}" if self.codes else self.ocr.identity

    def read(self, picture: CheckedPicture, seen: Sequence[Image.Image] = ()) -> PictureEvidence:
        """Read one picture.

        Args:
            picture: A checked picture; its metadata, and what other viewers show of it, are read too.
            seen: The picture as a model's own processor hands it to the model, RGB; read if it looks different.

        Raises:
            ImportError: An extra is not installed.
        """
        key = (picture.sha256, picture.notes, _hash(h for _, h in picture.hidden), _hash(s.tobytes() for s in seen))
        known = self._recent.get(key)
        if known is None:
            with self._slots:
                known = self._read(picture, seen)
            if known.complete:
                self._recent.put(key, known, sum(len(finding.text) for finding in known.findings))
        return known

    async def aread(self, picture: CheckedPicture, seen: Sequence[Image.Image] = ()) -> PictureEvidence:
        """Read one picture without blocking the event loop; as `read`."""
        return await asyncio.to_thread(self.read, picture, seen)

    def _read(self, picture: CheckedPicture, seen: Sequence[Image.Image]) -> PictureEvidence:
        deadline = time.monotonic() + self.seconds
        found = _Found()
        for where, note in picture.notes:
            found.add(Finding("metadata", note, where))
        for view in self._views(picture, seen):
            if time.monotonic() > deadline:
                return found.evidence(complete=False)
            again = self._look(view, found)
            for other in turned(view, again if view.name.endswith(_PLAIN) else ()):
                self._look(other, found)
        return found.evidence(complete=time.monotonic() <= deadline)

    def _views(self, picture: CheckedPicture, seen: Sequence[Image.Image]) -> Iterator[View]:
        shown = picture.open()
        yield from views_of(shown)
        for how, look in picture.open_hidden():
            yield from (replace(view, name=f"{how}, {view.name}") for view in views_of(look))
        if not is_flat(shown):
            yield from seen_views(shown, seen)
            yield from shrunk_views(shown)

    def _look(self, view: View, found: _Found) -> tuple[int, ...]:
        """Read one view; return how it should be turned for text in it that stands on its side or on its head."""
        lines = self.ocr.read(view.image)
        found.add_lines([line for line in lines if _is_text(line, view)], view)
        if self.codes and not view.angle:
            for code, line in read_codes(view.image):
                found.add(Finding("code", line.text, code, 1.0, view.place(line.box)))
        if self.ocr.upright_only:
            return (90, 180, 270)
        standing = any(_stands(line, view) for line in lines)
        unsure = any(line.confidence < _SURE and not _stands(line, view) for line in lines)
        return (*((90, 270) if standing else ()), *((180,) if unsure else ()))


class _Found:
    """Findings without repetitions: views show the same text again and again."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.readings: list[tuple[str, ...]] = []
        self._known: list[str] = []

    def evidence(self, *, complete: bool) -> PictureEvidence:
        return PictureEvidence(tuple(self.findings), tuple(self.readings), complete=complete)

    def add_lines(self, lines: list[Line], view: View) -> None:
        if lines:
            self.readings.append(tuple(line.text for line in lines))
        new = [line for line in lines if not self._is_known(_letters(line.text))]
        for line in new:
            self.add(Finding("text", line.text, view.name, round(line.confidence, 3), view.place(line.box)))

    def add(self, finding: Finding) -> None:
        repeated = finding.kind != "text" and any(
            f.text == finding.text and f.kind == finding.kind for f in self.findings
        )
        if not repeated and len(self.findings) < _MOST_FINDINGS:
            self.findings.append(finding)
            self._known.append(_letters(finding.text))

    def _is_known(self, letters: str) -> bool:
        return letters in "".join(self._known) or any(_alike(letters, known) for known in self._known)


def _alike(one: str, other: str) -> bool:
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    return matcher.real_quick_ratio() > _SAME and matcher.quick_ratio() > _SAME and matcher.ratio() > _SAME


def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def _is_text(line: Line, view: View) -> bool:
    least = _LEAST_CONFIDENCE if view.name == _PLAIN else _LEAST_CONFIDENCE_BROUGHT_OUT
    return line.confidence >= least and sum(character.isalpha() for character in line.text) > 1


def _stands(line: Line, view: View) -> bool:
    left, top, right, bottom = line.box
    return (bottom - top) * view.image.height > (right - left) * view.image.width * _UPRIGHT


def _passages(lines: list[str]) -> Iterator[str]:
    words = " ".join(lines).split()
    if len(lines) > 1:
        yield " ".join(" ".join(reversed(lines)).split()[: 2 * _WORDS_TOGETHER])
    yield " ".join(words[: 2 * _WORDS_TOGETHER])
    if len(words) > 2 * _WORDS_TOGETHER:
        for start in range(0, len(words), _WORDS_TOGETHER // 2):
            yield " ".join(words[start : start + _WORDS_TOGETHER])
    if len(lines) > _LINES_TOGETHER:
        for start in range(len(lines)):
            yield " ".join(lines[start : start + _LINES_TOGETHER])


def _hash(parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
