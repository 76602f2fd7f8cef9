"""What pictures show, by classifiers of pictures: one protocol, and adapters for Hugging Face pipelines and ONNX files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from langchain_vlmguard.errors import extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    Pixels = NDArray[np.float32]
    """Pixels as a model takes them: batch of one, then channels and edges in the model's own order."""


class PictureClassifier(Protocol):
    """Says how likely each of its labels is for a picture.

    ??? example "Everything is a cat"

        ```python
        class Cats:
            identity = "cats 1"

            def scores(self, picture):
                return {"cat": 1.0}


        reader = EvidenceReader(classifiers=[Cats()])
        ```
    """

    @property
    def identity(self) -> str:
        """Name and version, as verdicts give them."""

    def scores(self, picture: Image.Image) -> Mapping[str, float]:
        """Return probabilities from 0 to 1 by label, for an RGB picture. May be called from several threads."""


@dataclass(frozen=True)
class PictureScore:
    """What one classifier says about one label of a picture."""

    model: str
    label: str
    score: float


class PipelineClassifier:
    """Any image-classification pipeline of Hugging Face's `transformers` (extra `local`).

    ??? example "A model of the hub"

        ```python
        classifier = PipelineClassifier(pipeline("image-classification", "Falconsai/nsfw_image_detection"))
        ```
    """

    def __init__(
        self, pipeline: Callable[[Image.Image], Iterable[Mapping[str, object]]], identity: str | None = None
    ) -> None:
        """Take a pipeline, and what verdicts call it: the name of its model by default."""
        self.pipeline = pipeline
        named = getattr(getattr(getattr(pipeline, "model", None), "config", None), "_name_or_path", None)
        self.identity = identity or str(named or type(pipeline).__name__)

    def scores(self, picture: Image.Image) -> dict[str, float]:
        """Return the pipeline's scores by label."""
        return {str(row["label"]): float(str(row["score"])) for row in self.pipeline(picture)}


class OnnxClassifier:
    """Any classifier in an ONNX file with one picture as input and one row of probabilities as output (extra `evidence`).

    ??? example "Two labels, pixels from 0 to 1"

        ```python
        classifier = OnnxClassifier("weapons.onnx", ["none", "weapon"], lambda picture: pixels(picture, 224))
        ```
    """

    def __init__(
        self,
        path: str | Path,
        labels: Sequence[str],
        prepare: Callable[[Image.Image], Pixels],
        identity: str | None = None,
    ) -> None:
        """Open a file.

        Args:
            path: The ONNX file.
            labels: Names of the outputs, in the model's order.
            prepare: Makes of an RGB picture what the model takes, a batch of one.
            identity: What verdicts call it; the file's name and hash by default.

        Raises:
            MissingExtraError: ONNX Runtime is not installed.
        """
        with extra("evidence"):
            import onnxruntime
        data = Path(path).read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.labels = tuple(labels)
        self.prepare = prepare
        self.identity = identity or f"{Path(path).stem} {hashlib.sha256(data).hexdigest()[:16]}"

    def scores(self, picture: Image.Image) -> dict[str, float]:
        """Return the model's probabilities by label.

        Raises:
            ValueError: The model's output is not one number a label.
        """
        (row,) = self._session.run(None, {self._input: self.prepare(picture)})[0]
        return {label: float(value) for label, value in zip(self.labels, row, strict=True)}


def classified(picture: Image.Image, classifiers: Iterable[PictureClassifier]) -> tuple[PictureScore, ...]:
    """Return what classifiers say about a picture.

    Raises:
        ValueError: A score is no probability.
    """
    found = []
    for classifier in classifiers:
        for label, score in classifier.scores(picture).items():
            if not 0 <= score <= 1:
                msg = f"{classifier.identity} gave {score} for {label!r}, which is no probability"
                raise ValueError(msg)
            found.append(PictureScore(classifier.identity, label, score))
    return tuple(found)
