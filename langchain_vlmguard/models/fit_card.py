"""The card beside fitted directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_vlmguard.steering.gate_head import GateHead
    from langchain_vlmguard.verdict.records import Json


def gate_facts(head: GateHead) -> Json:
    """Return what the card says of a gate: where it reads, its threshold, and the shares of left-out anchors above it."""
    shares = {f"opens_on_{name}": round(head.share(name), 4) for name in ("harmful", "harmless", "edgy")}
    return {**head.facts, "hash": head.hash, "threshold": round(head.threshold, 4), **shares}


def fit_card(facts: Json, *, plot: str | None) -> str:
    """Return the card (Markdown) of what `vlmguard fit` found."""
    anchors, gate, edit = facts["anchors"], facts["gate"], facts["edit"]
    choice, options = edit["choice"], facts["options"]
    figure = f"\n![Where the classes lie, by layer]({plot})\n" if plot else ""
    rows = [
        (str(one["layer"]), f"{one['alpha']:g}", "yes" if one["decode"] else "no", f"{one['refused']:.2f}")
        for one in edit["trials"]
    ]
    trials = _table(("layer", "strength", "new tokens too", "refused"), rows)
    return f"""\
# Safety directions of {facts["model"]}

Written by `vlmguard fit`. `ChatSteeredVLM.from_pretrained` takes this folder in place of the model's name.

## How

Directions are the mean difference of {anchors["pairs"]} pairs of requests as text alone ({anchors["name"]}), three quarters of
them; {options["shown"]} pairs were also read beside meaningless pictures. No harmful picture was used.

The gate reads the typed request alone, without system prompt, tools, history and pictures, so that its threshold holds in all
of them: the last token's state after layer {gate["last"]} and the mean of the request after layer {gate["mean"]}, by
logistic regression.
Layers, penalty and threshold were chosen by pairs that the weights did not see.

The edit was chosen on {options["tried"]} held-out harmful anchors with the gate open, half of them beside meaningless pictures,
by phrases of refusal in {options["tokens"]} tokens. The plain model refuses {edit["refused_plain"]:.2f} of them.

## Figures

The gate opens, on left-out anchors, for

| requests | share |
| --- | --- |
| harmful | {gate["opens_on_harmful"]:.2f} |
| harmless that sound dangerous (wanted: {gate["wanted_false_alarms"]:.2f}) | {gate["opens_on_edgy"]:.2f} |
| all harmless | {gate["opens_on_harmless"]:.2f} |

Threshold {gate["threshold"]}, placed on `{gate["calibration"]}`. Anchors are harder than most requests: each harmful one
has a harmless twin in nearly the same words. The edit is at layer {choice["layers"][0]} with strength {choice["alpha"]:g},
and refuses {choice["refused"]:.2f}:

{trials}
{figure}
These figures say nothing about requests of another kind. Put your own harmless traffic in a file and run `vlmguard calibrate`.

## Hashes

| what | hash |
| --- | --- |
| anchors | {anchors["hash"]} |
| directions | {facts["directions"]["hash"]} |
| gate | {gate["hash"]} |
| token embeddings of the model | {facts["directions"]["weights_hash"]} |

Package {facts["package_version"]}; {facts["minutes"]} minutes.
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
