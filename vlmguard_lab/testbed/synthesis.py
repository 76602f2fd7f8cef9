"""The whole synthesis on the testbed: its own requests, its plain and its steered model, and the exact analyst."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_vlmguard.models.loading import load_vlm
from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
from langchain_vlmguard.rewriting.synthesis import Synthesis
from vlmguard_lab.testbed.rewriting import OracleAnalyst, as_items, sample_requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from langchain_vlmguard.rewriting.synthesis import Part

BATCH = 64


def synthesize_testbed(
    folder: Path,
    *,
    n: int = 5000,
    seed: int = 0,
    without: frozenset[Part] = frozenset(),
    concurrency: int = BATCH,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> dict[str, Any]:
    """Make the data that the shipped rewriter was trained on; pictures are dropped beside new prompts.

    Args:
        folder: Where pictures, calls, data and manifest go; a stopped run goes on from there.
        n: Requests to start from.
        seed: Seed of their sample.
        without: Parts to leave out, for ablations.
        concurrency: Most requests in work at a time.
        progress: Told how many requests of how many are done.

    Returns:
        The manifest.
    """
    asked = sample_requests(n, seed=seed)
    items = as_items(asked, folder / "pictures")
    loaded = load_vlm("testbed", device="cpu")
    synthesis = Synthesis(
        analyst=OracleAnalyst.of(asked, items),
        target=ChatSteeredVLM.from_loaded(loaded, steering=None, max_tokens=48, batch_size=BATCH),
        guarded=ChatSteeredVLM.from_loaded(loaded, max_tokens=48, batch_size=BATCH),
        without=without,
        pictures="drop",
    )
    names = {"analyst": "testbed-oracle", "target": "testbed", "guarded": "testbed, steered", "seed": seed, "n": n}
    return synthesis.run(items, folder, concurrency=concurrency, progress=progress, **names)
