"""The generated tables of docs/reference.md, from docs/results/reference.json alone."""

from __future__ import annotations

from typing import Any

from vlmguard_lab.bench.page import table
from vlmguard_lab.bench.reference.cells import ALL

Results = dict[str, Any]

_PICTURES = {
    "two_way": "which of two, things never seen",
    "two_way_other_style": "which of two, things never seen, style never seen",
    "named_other_style": "naming, things seen, style never seen",
    "named_unseen": "naming, things never seen",
    "named_unseen_other_style": "naming, things and style never seen",
}


_GAP_FIGURES = """![How well the gate's coordinate tells harmful from harmless requests, by layer](images/reference-gap.png)

![Text against picture, before and after steering](images/reference-maps.png)"""
_TRADE_FIGURE = "![Safety against over-refusal](images/reference-trade.png)"


def tables(results: Results) -> dict[str, str]:
    """Return each table by the name of its mark."""
    found = {
        "reference-facts": facts(results),
        "reference-pictures": pictures(results["pictures"]),
        "reference-gap": gap(results["cells"]),
        "reference-arms": arms(results["cells"]),
        "reference-judges": judges(results["judges"]),
        "reference-gate": gate(results["gate"]),
        "reference-cost": cost(results["cost"]),
        "reference-answers": answers(results["answers"]),
        "reference-gap-figures": _GAP_FIGURES,
        "reference-trade-figure": _TRADE_FIGURE,
    }
    return {name: text for name, text in found.items() if text}


def facts(results: Results) -> str:
    """Say on what and when it was measured."""
    model = results["model"]
    return (
        f"Measured on {results['date']} on {results['machine']}, in {results['seconds'] / 60:.0f} minutes, with the "
        f"{model['size']} in {model['checkpoint']}; answers of at most {model['tokens']} tokens, greedy."
    )


def pictures(found: Results) -> str:
    """Tabulate the picture questions."""
    rows = [(_PICTURES[name], _share(one), str(one["n"])) for name, one in found.items()]
    return table(("question", "right", "n"), rows)


def gap(cells: list[Results]) -> str:
    """Tabulate what the plain model and the steered one refuse, condition by condition."""
    rows = []
    for one in _cells(cells, "none", "phrases"):
        if one["family"] in {"typed", "beside", "wrapped", "wrapped_beside", "harmless", "harmless_shown", "agent"}:
            steered = next((c for c in _cells(cells, "steering", "phrases") if _key(c) == _key(one)), None)
            rows.append(
                (
                    one["family"],
                    one["variant"],
                    "harmful" if one["harmful"] else "harmless",
                    _refused(one),
                    _refused(steered) if steered else "",
                    str(one["n"]),
                )
            )
    return table(("family", "variant", "requests", "refused, plain", "refused, steered", "n"), rows) if rows else ""


def arms(cells: list[Results]) -> str:
    """Tabulate every arm over whole families: unsafe answers by each judge, and refusals of harmless requests."""
    rows = []
    for one in cells:
        if one["variant"] == ALL:
            unsafe = _interval(one, "unsafe") if one["harmful"] else ""
            rows.append(
                (
                    one["arm"],
                    one["family"],
                    "harmful" if one["harmful"] else "harmless",
                    one["judge"],
                    unsafe,
                    _refused(one),
                    _interval(one, "useful") if one["useful"] is not None else "",
                    str(one["n"]),
                )
            )
    head = ("arm", "family", "requests", "judge", "unsafe", "refused", "useful", "n")
    return table(head, rows) if rows else ""


def judges(found: Results) -> str:
    """Tabulate the judges' agreement with people."""
    rows = [("refusal", name, *_agreement(one)) for name, one in found.get("refusal", {}).items()]
    harm = found.get("harm")
    if harm:
        rows += [("harm", name, *_agreement(harm[name])) for name in ("by_model", "by_phrases")]
    head = ("of", "judge", "precision", "recall", "false alarms", "kappa", "n")
    return table(head, rows) if rows else ""


def gate(rows: list[Results]) -> str:
    """Tabulate the area under the curve by layer."""
    conditions = list(dict.fromkeys((row["set"], row["condition"]) for row in rows))
    layers = sorted({row["layer"] for row in rows})
    by_place = {(row["layer"], row["set"], row["condition"]): row["auc"] for row in rows}
    head = ("layer", *(f"{name}, {condition}" for name, condition in conditions))
    body = [(str(layer), *(f"{by_place[layer, *place]:.2f}" for place in conditions)) for layer in layers]
    return table(head, body) if rows else ""


def cost(rows: list[Results]) -> str:
    """Tabulate what arms cost."""
    body = [(r["arm"], f"{r['ratio_to_plain_median']:.2f}", f"{r['ratio_of_totals']:.2f}", str(r["n"])) for r in rows]
    return table(("arm", "median ratio to plain", "ratio of totals", "n"), body) if rows else ""


def answers(rows: list[Results]) -> str:
    """Print answers for a person to check."""
    head = ("arm", "cell", "asked", "answered", "phrases", "model judge")
    body = [
        (
            row["arm"],
            row["cell"],
            _short(row["text"] + (f" [{row['picture']}]" if row["picture"] else "")),
            _short(row["answer"]),
            "refused" if row["refused"] else "answered",
            f"{row['score']:.2f}" if "score" in row else "",
        )
        for row in rows
    ]
    return table(head, body) if rows else ""


def _cells(cells: list[Results], arm: str, judge: str) -> list[Results]:
    return [cell for cell in cells if cell["arm"] == arm and cell["judge"] == judge]


def _key(cell: Results) -> tuple[Any, ...]:
    return cell["family"], cell["variant"], cell["split"], cell["harmful"]


def _share(one: Results) -> str:
    return f"{one['value']:.3f} [{one['ci95'][0]:.3f}, {one['ci95'][1]:.3f}]"


def _interval(cell: Results, name: str) -> str:
    low, high = cell["ci95"][name]
    return f"{cell[name]:.2f} [{low:.2f}, {high:.2f}]"


def _refused(cell: Results) -> str:
    return _interval(cell, "refused")


def _agreement(one: Results) -> tuple[str, ...]:
    shares = tuple(_share(one[name]) for name in ("precision", "recall", "false_alarms"))
    return (*shares, f"{one['kappa']:.2f}", str(one["n"]))


_LONGEST = 160


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"
