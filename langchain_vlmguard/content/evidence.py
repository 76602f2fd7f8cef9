"""Evidence: what pictures say, found without a model of ours: text by OCR, codes, metadata; each with how it was found."""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import logging
import re
import time
from dataclasses import dataclass, replace
from functools import cached_property
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Literal

from langchain_vlmguard.content.codes import check_code_reader, read_codes, reader_identity
from langchain_vlmguard.content.line_search import SURE, DetectingOCR, LineSearch, Look, is_read_by
from langchain_vlmguard.content.ocr import KNOWN_LANGUAGES, Box, Line, RapidOCRReader, TesseractReader
from langchain_vlmguard.content.passages import blocks_of_lines, in_order, passages_of
from langchain_vlmguard.content.picture_classes import classified
from langchain_vlmguard.content.recent import Recent
from langchain_vlmguard.content.views import (
    AFAR,
    STRETCHED,
    View,
    is_flat,
    seen_views,
    shrunk_views,
    turned,
    view_from_afar,
    views_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from PIL import Image

    from langchain_vlmguard.content.images import CheckedPicture
    from langchain_vlmguard.content.ocr import OCR
    from langchain_vlmguard.content.picture_classes import PictureClassifier, PictureScore

logger = logging.getLogger(__name__)

_PLAIN = "as it is"
_LEAST_CONFIDENCE = 0.6
_LEAST_CONFIDENCE_BROUGHT_OUT = 0.75
"""For what only shows after the picture was changed: noise made visible is read as letters now and then."""

_UPRIGHT = 1.3
"""Height over width of a line that stands on its side."""

_SAME = 0.8
_MOST_FINDINGS = 4_000
_LEAST_SPELLED = 3
_KEPT_BYTES = 4_000_000
_BUSY = 4
"""Times as long by the clock: that a machine is busy with other work is no reason to refuse a picture."""

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
    """Whether every view was looked at in time, and all that was found is here."""

    classes: tuple[PictureScore, ...] = ()
    """What classifiers say that the picture shows."""

    unclassified: str | None = None
    """Class name of the error that kept a classifier from saying it."""

    unread: tuple[Box, ...] = ()
    """Where text is seen that could not be read: another script, as a rule."""

    @property
    def text(self) -> str:
        """Everything found, one finding a line."""
        return "\n".join(finding.text for finding in self.findings)

    @property
    def shown_text(self) -> str:
        """The text that shows at first sight, as one line."""
        return " ".join(self.shown_lines)

    @property
    def shown_lines(self) -> tuple[str, ...]:
        """The lines that show at first sight."""
        return tuple(f.text for f in self.findings if f.kind == "text" and f.found_by in (_PLAIN, AFAR))

    @property
    def requests(self) -> tuple[str, ...]:
        """The passages that read as a question, a request or an instruction, or speak to a model."""
        return tuple(p for p in self.passages if reads_as_request(p) or Finding("text", p, _PLAIN).addresses_model)

    @cached_property
    def passages(self) -> tuple[str, ...]:
        """The texts to judge, all of them: what was read together, each code and each note by itself (see `passages_of`)."""
        alone = ((finding.text,) for finding in self.findings if finding.kind != "text")
        return passages_of((*self.readings, *alone))


class EvidenceReader:
    """Reads what pictures say, in all views that bring hidden text out; a picture that was read is not read again.

    ??? example "One picture"

        ```python
        evidence = EvidenceReader().read(check_picture(data, ImageLimits()))
        [(finding.text, finding.found_by) for finding in evidence.findings]
        ```
    """

    def __init__(
        self,
        ocr: OCR | None = None,
        *,
        classifiers: Sequence[PictureClassifier] = (),
        languages: Sequence[str] = (),
        codes: bool = True,
        seconds: float = 60.0,
        max_concurrency: int = 2,
    ) -> None:
        """Choose the reader of text.

        Args:
            ocr: RapidOCR when `None`; `TesseractReader` is the other one at hand.
            classifiers: Say what pictures show; the policy's `picture_labels` says what follows.
            languages: Languages to read, as ISO 639-1 codes (`("en", "ru", "ar")`). What RapidOCR's models do not know is given
                to Tesseract, line by line (extra `tesseract`, the program, and its data of these languages).
            codes: Whether QR codes and barcodes are read too.
            seconds: Of computing for one picture, and four times as many by the clock; evidence that is not whole by then
                says so.
            max_concurrency: How many pictures are read at once.

        Raises:
            MissingExtraError: What the reader needs is not installed.
            ValueError: A language is not known, or its data is not installed.
        """
        if codes:
            check_code_reader()
        self.ocr: OCR = ocr or RapidOCRReader()
        self.others = TesseractReader.of_languages(languages) if set(languages) - KNOWN_LANGUAGES else None
        self.classifiers = tuple(classifiers)
        self.codes = codes
        self.seconds = seconds
        self.max_concurrency = max_concurrency
        self._slots = BoundedSemaphore(max_concurrency)
        self._recent: Recent[PictureEvidence] = Recent(_KEPT_BYTES)

    @cached_property
    def identity(self) -> str:
        """What a verdict calls this reader."""
        readers = [self.ocr.identity, *([self.others.identity] if self.others else [])]
        readers += [classifier.identity for classifier in self.classifiers]
        return "; ".join([*readers, *([reader_identity()] if self.codes else [])])

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
                known = self._classify(picture, self._read(picture, seen))
            if known.complete and known.unclassified is None:
                self._recent.put(key, known, sum(len(finding.text) for finding in known.findings))
        return known

    async def aread(self, picture: CheckedPicture, seen: Sequence[Image.Image] = ()) -> PictureEvidence:
        """Read one picture without blocking the event loop; as `read`."""
        return await asyncio.to_thread(self.read, picture, seen)

    def _read(self, picture: CheckedPicture, seen: Sequence[Image.Image]) -> PictureEvidence:
        deadline = _Deadline(self.seconds)
        found = _Found()
        for where, note in picture.notes:
            found.add(Finding("metadata", note, where))
        search = LineSearch(self.ocr, self.others) if isinstance(self.ocr, DetectingOCR) else None
        first: Look | None = None
        for views, first_again in self._looks(picture, seen):
            look = first if first_again and first is not None else Look(shown=first.known if first else [])
            first = first or look
            for view in views:
                if deadline.is_over:
                    return found.evidence(complete=False)
                if search is None:
                    self._look(view, found)
                else:
                    self._search(view, found, search, look)
            found.end_look()
        return found.evidence(complete=not deadline.is_over)

    def _classify(self, picture: CheckedPicture, evidence: PictureEvidence) -> PictureEvidence:
        """Add what classifiers say; one that fails is told, and decides as a picture that could not be read does."""
        if not self.classifiers:
            return evidence
        looks = [picture.open(), *(look for _, look in picture.open_hidden())]
        try:
            scores = [score for look in looks for score in classified(look, self.classifiers)]
        except Exception as error:  # whatever it is, nobody has judged what the picture shows
            logger.exception("A classifier of pictures failed")
            return replace(evidence, unclassified=type(error).__name__)
        highest = {(s.model, s.label): s for s in sorted(scores, key=lambda one: one.score)}
        return replace(evidence, classes=tuple(highest.values()))

    def _looks(self, picture: CheckedPicture, seen: Sequence[Image.Image]) -> Iterator[tuple[Iterable[View], bool]]:
        """Yield views of the same pixels in other sizes and lights together, and whether they are those of the first look."""
        shown = picture.open()
        yield views_of(shown), True
        for how, look in picture.open_hidden():
            yield (replace(view, name=f"{how}, {view.name}") for view in views_of(look)), False
        if not is_flat(shown):
            for view in (*seen_views(shown, seen), *shrunk_views(shown)):
                yield (view,), False
            yield view_from_afar(shown), True

    def _search(self, view: View, found: _Found, search: LineSearch, known: Look) -> None:
        """Read what is new in a view, each line once."""
        lines, unread = search.read(view, known)
        found.add_lines(lines, view)
        if not view.name.endswith(STRETCHED):
            found.unread += [view.place(box) for box in unread]
        self._codes(view, found)

    def _codes(self, view: View, found: _Found) -> None:
        if self.codes and not view.angle:
            for code, line in read_codes(view.image):
                found.add(Finding("code", line.text, code, 1.0, view.place(line.box)))

    def _look(self, view: View, found: _Found) -> None:
        """Read one view whole; turned as well, where text in it stands on its side or on its head."""
        lines = self.ocr.read(view.image)
        found.add_lines(lines, view)
        self._codes(view, found)
        angles = self._turns(lines, view) if not view.angle and view.name.endswith(_PLAIN) else ()
        for other in turned(view, angles):
            found.add_lines(self.ocr.read(other.image), other)

    def _turns(self, lines: Sequence[Line], view: View) -> tuple[int, ...]:
        if self.ocr.upright_only:
            return (90, 180, 270)
        standing = any(_stands(line, view) for line in lines)
        unsure = any(line.confidence < SURE and not _stands(line, view) for line in lines)
        return (*((90, 270) if standing else ()), *((180,) if unsure else ()))


class _Deadline:
    """Is over when its thread has computed for so long, or much later by the clock."""

    def __init__(self, seconds: float) -> None:
        self._computing, self._clock = time.thread_time() + seconds, time.monotonic() + _BUSY * seconds

    @property
    def is_over(self) -> bool:
        return time.thread_time() > self._computing or time.monotonic() > self._clock


class _Found:
    """Findings without repetitions: views show the same text again and again."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.readings: list[tuple[str, ...]] = []
        self.unread: list[Box] = []
        self._known: list[str] = []
        self._letters_known = ""
        self._boxes: list[Box] = []
        self._look: list[Line] = []
        self._views = 0
        self._cut = False

    def evidence(self, *, complete: bool) -> PictureEvidence:
        found, readings = tuple(self.findings), tuple(dict.fromkeys(self.readings))
        unread = tuple(box for box in dict.fromkeys(self.unread) if not is_read_by(box, self._boxes))
        return PictureEvidence(found, readings, complete and not self._cut, unread=unread)

    def add_lines(self, lines: list[Line], view: View) -> None:
        """Add a view's lines: as a reading from top to bottom, and as findings where they are new."""
        placed = in_order([replace(line, box=view.place(line.box)) for line in lines])
        texts = [line for line in placed if _is_text(line, view)]
        letters = [line for line in placed if line.confidence >= _LEAST_CONFIDENCE and len(_letters(line.text)) == 1]
        if texts:
            self.readings.append(tuple(line.text for line in texts))
            self._look += texts
            self._boxes += [line.box for line in texts if line.confidence >= SURE]
            self._views += 1
        if len(letters) >= _LEAST_SPELLED:
            self.readings.append(("".join(line.text.strip() for line in letters),))
        new = [line for line in texts if not self._is_known(_letters(line.text))]
        for line in new:
            self.add(Finding("text", line.text, view.name, round(line.confidence, 3), line.box))

    def end_look(self) -> None:
        """Put together what the views of one look showed: by its columns, and whole."""
        if self._views > 1:
            self.readings.append(tuple(line.text for line in in_order(self._look)))
        self.readings += [tuple(line.text for line in block) for block in blocks_of_lines(self._look)]
        self._look, self._views = [], 0

    def add(self, finding: Finding) -> None:
        repeated = finding.kind != "text" and any(
            f.text == finding.text and f.kind == finding.kind for f in self.findings
        )
        if repeated:
            return
        if len(self.findings) >= _MOST_FINDINGS:
            self._cut = True
            return
        self.findings.append(finding)
        self._known.append(_letters(finding.text))
        self._letters_known += self._known[-1]

    def _is_known(self, letters: str) -> bool:
        return letters in self._letters_known or any(_alike(letters, known) for known in self._known)


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


def _hash(parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
