"""Readers of text in pictures behind one interface: RapidOCR, whose models come with its wheel, and Tesseract."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from langchain_vlmguard.errors import extra

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import ModuleType

    from PIL import Image
    from rapidocr import RapidOCR

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of the picture's edges."""


@dataclass(frozen=True)
class Line:
    """One line of text as it was read."""

    text: str
    confidence: float
    """From 0 to 1."""

    box: Box


@dataclass(frozen=True)
class Region:
    """Where a detector sees a line of text."""

    image: Image.Image
    """The line, upright as its box lies, RGB."""

    box: Box
    score: float
    """How sure the detector is, from 0 to 1."""


class OCR(Protocol):
    """Reads lines of text."""

    upright_only: bool
    """Whether turned text is read only when the picture is turned."""

    @property
    def identity(self) -> str:
        """Name and version, as verdicts give them."""

    def read(self, image: Image.Image) -> list[Line]:
        """Return the lines of an RGB picture, in reading order, unsure ones too. May be called from several threads."""


class RapidOCRReader:
    """PP-OCR through RapidOCR and ONNX Runtime on the CPU (extra `evidence`). Reads turned and inverted text by itself."""

    upright_only = False

    def __init__(self) -> None:
        """Check that the extra is installed.

        Raises:
            MissingExtraError: It is not.
        """
        with extra("evidence"):
            import_module("rapidocr")
            import_module("onnxruntime")

    @property
    def identity(self) -> str:
        """Name and version."""
        return f"rapidocr {_version('rapidocr')}"

    def detect(self, image: Image.Image, fine: Image.Image | None = None) -> list[Region]:
        """Return the lines of an RGB picture, unread; cut out of the same pixels in a larger size, if they are given."""
        import numpy as np
        from PIL import Image as Pictures
        from rapidocr.utils.process_img import get_rotate_crop_image

        pixels = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
        with _engine() as engine:
            result = engine(pixels, use_det=True, use_cls=False, use_rec=False)
        if result.boxes is None:
            return []
        scale = 1.0
        if fine is not None:
            pixels, scale = np.ascontiguousarray(np.asarray(fine.convert("RGB"))[:, :, ::-1]), fine.width / image.width
        cut = [get_rotate_crop_image(pixels, scale * np.array(corners, dtype=np.float32)) for corners in result.boxes]
        rows = zip(cut, result.boxes, result.scores, strict=True)
        return [
            Region(Pictures.fromarray(np.ascontiguousarray(line[:, :, ::-1])), _around(box, image.size), float(score))
            for line, box, score in rows
            if line.size
        ]

    def recognise(self, images: Sequence[Image.Image]) -> list[tuple[str, float]]:
        """Return text and confidence of single lines."""
        import numpy as np

        lines = [np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1]) for image in images]
        with _engine() as engine:
            result = engine.recognize_txt(lines)
        return [(str(text), float(score)) for text, score in zip(result.txts, result.scores, strict=True)]

    def read(self, image: Image.Image) -> list[Line]:
        """Return the lines of an RGB picture."""
        import numpy as np

        with _engine() as engine:
            result = engine(np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1]))
        if result.boxes is None or not result.txts:
            return []
        found = zip(result.txts, result.scores, result.boxes, strict=True)
        return [Line(text, float(score), _around(corners, image.size)) for text, score, corners in found]


_SETTINGS = {
    "Global.log_level": "critical",
    "Global.text_score": 0.0,
    "Rec.rec_batch_num": 1,
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
}
"""Lines are read one by one, since a batch is as wide as its widest line, and unsure ones are wanted too. Pictures are read
side by side rather than each by all cores."""

_IDLE: SimpleQueue[RapidOCR] = SimpleQueue()
"""Engines that nobody uses now; one engine serves one thread at a time, since it keeps notes on the picture it reads."""


@contextmanager
def _engine() -> Iterator[RapidOCR]:
    try:
        engine = _IDLE.get_nowait()
    except Empty:
        engine = _new_engine()
    try:
        yield engine
    finally:
        _IDLE.put(engine)


def _new_engine() -> RapidOCR:
    with extra("evidence"):
        from rapidocr import RapidOCR
    return RapidOCR(params=_SETTINGS)


KNOWN_LANGUAGES = frozenset(
    {"da", "de", "en", "es", "et", "fi", "fr", "ga", "hr", "hu", "id", "is", "it", "ja", "lt", "lv", "ms", "nl", "no"}
    | {"pl", "pt", "ro", "sk", "sl", "sq", "sv", "sw", "tr", "zh"}
)
"""ISO 639-1 codes of languages in Latin letters, Chinese and Japanese, which RapidOCR's own models read."""

# fmt: off
_TESSERACT: Mapping[str, str] = MappingProxyType({
    "am": "amh", "ar": "ara", "be": "bel", "bg": "bul", "bn": "ben", "el": "ell", "fa": "fas", "gu": "guj",
    "he": "heb", "hi": "hin", "hy": "hye", "ka": "kat", "km": "khm", "kn": "kan", "ko": "kor", "lo": "lao",
    "ml": "mal", "mr": "mar", "my": "mya", "ne": "nep", "pa": "pan", "ru": "rus", "si": "sin", "sr": "srp",
    "ta": "tam", "te": "tel", "th": "tha", "uk": "ukr", "ur": "urd", "vi": "vie", "yi": "yid",
})
# fmt: on
"""Tesseract's names of its data by ISO 639-1 code."""


class TesseractReader:
    """Tesseract through `pytesseract` (extra `tesseract`, and the program itself)."""

    upright_only = True

    @classmethod
    def of_languages(cls, languages: Sequence[str]) -> TesseractReader:
        """Make a reader of languages by their ISO 639-1 codes.

        Raises:
            MissingExtraError: The extra is not installed.
            ValueError: A code is not known, or the program or its data of a language is not installed.
        """
        unknown = sorted(set(languages) - KNOWN_LANGUAGES - _TESSERACT.keys())
        if unknown:
            msg = f"languages {unknown} are not known: choose from {sorted(KNOWN_LANGUAGES | _TESSERACT.keys())}"
            raise ValueError(msg)
        wanted = [_TESSERACT[code] for code in dict.fromkeys(languages) if code not in KNOWN_LANGUAGES]
        reader = cls("+".join(wanted))
        try:
            missing = sorted(set(wanted) - set(_tesseract().get_languages()))
        except OSError as error:
            msg = f"languages {sorted(languages)} are read by the program tesseract, which is not installed"
            raise ValueError(msg) from error
        if missing:
            msg = f"tesseract has no data for {missing}: install its packages of these languages"
            raise ValueError(msg)
        return reader

    def __init__(self, languages: str = "eng", seconds: float = 20.0) -> None:
        """Read text in some languages (`"eng+deu"`), each picture within some seconds.

        Raises:
            MissingExtraError: The extra is not installed.
        """
        with extra("tesseract"):
            import_module("pytesseract")
        self.languages = languages
        self.seconds = seconds

    @property
    def identity(self) -> str:
        """Name and version."""
        return f"tesseract {_tesseract().get_tesseract_version()} {self.languages}"

    def read(self, image: Image.Image) -> list[Line]:
        """Return the lines of an RGB picture."""
        tesseract = _tesseract()
        table = tesseract.image_to_data(
            image.convert("RGB"), lang=self.languages, timeout=self.seconds, output_type=tesseract.Output.DICT
        )
        return lines_of_table(table, image.size)


@dataclass(frozen=True)
class _Word:
    """A word of Tesseract's table, in pixels."""

    text: str
    confidence: float
    """From 0 to 100."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def of(cls, row: Mapping[str, str | float]) -> _Word:
        left, top, width, height = (float(row[name]) for name in ("left", "top", "width", "height"))
        return cls(str(row["text"]).strip(), float(row["conf"]), left, top, left + width, top + height)


def lines_of_table(table: Mapping[str, Sequence[str | float]], size: tuple[int, int]) -> list[Line]:
    """Join Tesseract's words to lines.

    Args:
        table: Columns of its TSV output by name.
        size: Width and height of the picture in pixels.
    """
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    lines: dict[tuple[object, ...], list[_Word]] = {}
    for row in rows:
        word = _Word.of(row)
        if word.text and word.confidence >= 0:
            lines.setdefault((row["block_num"], row["par_num"], row["line_num"]), []).append(word)
    return [_line(words, size) for words in lines.values()]


def _line(words: Sequence[_Word], size: tuple[int, int]) -> Line:
    width, height = size
    left, top = min(word.left for word in words), min(word.top for word in words)
    right, bottom = max(word.right for word in words), max(word.bottom for word in words)
    confidence = sum(word.confidence for word in words) / len(words) / 100
    text = " ".join(word.text for word in words)
    return Line(text, confidence, (left / width, top / height, right / width, bottom / height))


def _tesseract() -> ModuleType:
    with extra("tesseract"):
        import pytesseract
    module: ModuleType = pytesseract
    return module


def _around(corners: Iterable[tuple[float, float]], size: tuple[int, int]) -> Box:
    across = [float(x) / size[0] for x, _ in corners]
    down = [float(y) / size[1] for _, y in corners]
    return max(0.0, min(across)), max(0.0, min(down)), min(1.0, max(across)), min(1.0, max(down))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
