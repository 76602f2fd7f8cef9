"""The shipped testbed, registered under the name `"testbed"`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.models.checkpoints import NamedCheckpoint

if TYPE_CHECKING:
    from langchain_vlmguard.models.loading import LoadedVLM
    from langchain_vlmguard.rewriting.training import TrainingRecipe

FOLDER = Path(__file__).parent


def load_testbed() -> LoadedVLM:
    """Load the shipped testbed on the CPU, in float32, with its safety directions."""
    from langchain_vlmguard.models.loading import load_vlm

    return load_vlm("testbed", device="cpu")


def _recipe() -> TrainingRecipe:
    from vlmguard_lab.testbed.rewriting import rewriter_recipe

    return rewriter_recipe()


def _synthesize(*given: Any, **options: Any) -> dict[str, Any]:
    from vlmguard_lab.testbed.synthesis import synthesize_testbed

    return synthesize_testbed(*given, **options)


def _anchors() -> Any:
    from vlmguard_lab.testbed.anchors import load_testbed_anchors

    return load_testbed_anchors()


CHECKPOINT = NamedCheckpoint(FOLDER / "weights", FOLDER / "rewriter", _recipe, _synthesize, _anchors)
