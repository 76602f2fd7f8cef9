"""`vlmguard calibrate`: the gate's threshold on harmless requests of one's own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from langchain_core.messages import HumanMessage

from langchain_vlmguard.errors import NoThresholdError
from langchain_vlmguard.files import read_json, write_json, write_text
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.fit_card import fit_card, gate_facts
from langchain_vlmguard.models.fitted import FIT_FILE, fitted_folder
from langchain_vlmguard.models.fitting import PLOT_FILE
from langchain_vlmguard.models.guard_files import DIRECTIONS_FILE
from langchain_vlmguard.models.loading import load_vlm
from langchain_vlmguard.steering.encoding import encode_texts
from langchain_vlmguard.steering.gate_head import RequestStates
from langchain_vlmguard.steering.head_fitting import threshold_for
from langchain_vlmguard.steering.turn_states import prefill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from langchain_vlmguard.models.loading import LoadedVLM
    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.gate_head import GateHead
    from langchain_vlmguard.verdict.records import Json

_BATCH = 16


def calibrate_folder(
    model: str,
    requests: Path,
    *,
    false_alarms: float = 0.05,
    device: str | None = None,
    dtype: str = "auto",
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Json:
    """Place the threshold of a fitted folder's gate on harmless requests, and write its files again, each whole.

    Args:
        model: The folder that `vlmguard fit` wrote.
        requests: JSON lines with `text`.
        false_alarms: Share of them for which the gate may open.
        device: Torch device.
        dtype: Torch dtype, or `"auto"`.
        progress: Called with the stage, how many were read, and of how many.

    Returns:
        What changed: threshold, and the shares of anchors and of these requests above it, before and after.

    Raises:
        ValueError: The folder is none of `vlmguard fit`, or a line cannot be read.
        NoThresholdError: There are too few requests for such a share, or above the new threshold lies no harmful anchor.
    """
    if fitted_folder(model) is None:
        msg = f"{model} is no folder of `vlmguard fit`: fit the model first, and name the folder that --out wrote"
        raise ValueError(msg)
    texts = read_requests_file(requests)
    if len(texts) * false_alarms < 1:
        msg = f"{len(texts)} requests cannot say what share {false_alarms} of them is: give at least {round(1 / false_alarms)}"
        raise NoThresholdError(msg)
    loaded = load_vlm(model, device=device, dtype=dtype)
    directions, head = loaded.directions, None if loaded.directions is None else loaded.directions.gate
    if directions is None or head is None:
        msg = f"{model} has no gate of its own: fit it again"
        raise ValueError(msg)
    scores = _scores(loaded, head, texts, progress)
    digest = hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:16]
    after = head.placed(threshold_for(scores, false_alarms), f"traffic:{digest}")
    if after.share("harmful") == 0:
        msg = "these requests score as high as every harmful anchor: they are not harmless, or this gate cannot tell them apart"
        raise NoThresholdError(msg)
    _write(Path(model).expanduser(), replace(directions, gate=after), after)
    return {
        "requests": len(texts),
        "calibration": {"before": head.calibration, "after": after.calibration},
        "threshold": {"before": round(head.threshold, 4), "after": round(after.threshold, 4)},
        "opens_on": {
            "your requests": _both(float((scores > one.threshold).float().mean()) for one in (head, after)),
            **{f"{name} anchors": _both(one.share(name) for one in (head, after)) for name in ("harmful", "edgy")},
        },
    }


def read_requests_file(path: Path) -> list[str]:
    """Read the `text` of each line.

    Raises:
        ValueError: A line is no JSON object with a text, or there are none; the message names the line.
    """
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (KeyError, TypeError, ValueError):
            text = None
        if not isinstance(text, str) or not text.strip():
            msg = (
                f'line {number} of {path} is no JSON object with a text, e.g. {{"text": "How do I keep bread fresh?"}}'
            )
            raise ValueError(msg)
        texts.append(text)
    if not texts:
        msg = f"{path} holds no requests"
        raise ValueError(msg)
    return texts


def _scores(
    loaded: LoadedVLM, head: GateHead, texts: Sequence[str], progress: Callable[[str, int, int], None]
) -> Tensor:
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    found: list[Tensor] = []
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        rows = [to_chat_row([HumanMessage(texts[at])], loaded.processor).query("request") for at in part]
        inputs = {name: one.to(loaded.model.device) for name, one in encode_texts(loaded.processor, rows).items()}
        states = RequestStates(head.place, inputs, stop=True)
        prefill(loaded.model, inputs, [states])
        found.append(head.read(states.features()).score)
        progress("reading your requests", start + len(part), len(order))
    return torch.cat(found)


def _write(folder: Path, directions: SafetyDirections, head: GateHead) -> None:
    """Write the directions last: until then the folder is what it was."""
    facts = read_json(folder / FIT_FILE)
    facts["directions"]["hash"] = directions.hash
    facts["gate"] |= gate_facts(head)
    plot = PLOT_FILE if (folder / PLOT_FILE).is_file() else None
    write_json(folder / FIT_FILE, facts)
    write_text(folder / "README.md", fit_card(facts, plot=plot))
    directions.save(folder / DIRECTIONS_FILE)


def _both(shares: Iterable[float]) -> dict[str, float]:
    before, after = shares
    return {"before": round(before, 4), "after": round(after, 4)}
