"""The testbed: a tiny vision-language model trained from scratch in minutes, and the world it knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_vlmguard.models.loading import LoadedVLM


def load_testbed() -> LoadedVLM:
    """Load the shipped testbed on the CPU, in float32, with its safety directions."""
    from langchain_vlmguard.models.loading import TESTBED, load_vlm  # noqa: PLC0415 - needs torch

    return load_vlm(TESTBED, device="cpu")
