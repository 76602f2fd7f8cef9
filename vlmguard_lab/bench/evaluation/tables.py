"""The tables of docs/testbed_results.md, from docs/results/evaluation.json alone."""

from __future__ import annotations

from math import exp, log
from textwrap import fill
from typing import TYPE_CHECKING, Any

from vlmguard_lab.bench.page import table
from vlmguard_lab.evaluation.arms.guards import GUARD_ARMS
from vlmguard_lab.evaluation.report import percent
from vlmguard_lab.statistics import Share

if TYPE_CHECKING:
    from collections.abc import Sequence

OURS = tuple(arm.card.name for arm in GUARD_ARMS)
GUARDS = ("full", "full_adaptive", "full_answer_first")
"""Arms that the goals are set for."""

SHOWN = ("none", "steering", "gate_refuses", "rewriting", *GUARDS, "ecso", "shiftdc")
"""Arms that are shown cell by cell."""

MEANINGLESS = tuple(f"meaningless/{variant}" for variant in ("blank", "noise", "plain", "irrelevant"))
QUESTIONS = ("picture/identity", "picture/kind")
GOAL_EPS = 16

Results = dict[str, Any]


def summary(results: Results) -> str:
    """Return the two sentences in docs/results.md."""
    arms = ("none", *GUARDS)
    asked = pooled(results["pooled"], "none", harmful=True)["n"]
    unsafe = [percent(pooled(results["pooled"], arm, harmful=True)["unsafe"]) for arm in arms]
    refused = [percent(pooled(results["pooled"], arm, harmful=False)["refused"]) for arm in arms]
    attacks, adaptive = results["attacks"], GUARDS[1]
    picture = next(r["unsafe"] for r in attacks["pictures"] if r["arm"] == adaptive and r["eps"] == GOAL_EPS)
    words = {row["arm"]: row["unsafe"] for row in attacks["suffixes"]}
    count = len(results["targets"])
    said = (
        f"Of {asked:,} harmful requests on {count} architecture{'s' if count > 1 else ''} {unsafe[0]} are complied with plain, "
        f"{unsafe[1]} where the guard always asks its rewriter, {unsafe[2]} with adaptive rewriting, {unsafe[3]} where the plain "
        f"answer is tried first; of harmless ones {refused[0]} are refused plain, then {refused[1]}, {refused[2]} and "
        f"{refused[3]}. A picture attacked at {GOAL_EPS}/255 gets past the adaptive guard {picture['hits']} times in "
        f"{picture['n']}; words that know the guard, written behind the request, {words[adaptive]['hits']} in "
        f"{words[adaptive]['n']}, and past steering alone {words['steering']['hits']} in {words['steering']['n']}."
    )
    return fill(said, 125)


def tables(results: Results) -> dict[str, str]:
    """Return every table of the page by the name of its marks."""
    return {
        "measured": _measured_line(results),
        "goals": _goals_table(results),
        "disease": _disease_table(results),
        "arms": _arms_table(results),
        "by target": _targets_table(results),
        "parts": _parts_table(results["parts"]),
        "cells": _cells_table(results),
        "conversations": _conversations_table(results),
        "transfer": _transfer_table(results["transfer"]),
        "pictures": _pictures_table(results["attacks"]["pictures"]),
        "suffixes": _suffixes_table(results["attacks"]["suffixes"]),
        "judges": _judges_table(results["agreement"]),
        "evidence": _evidence_table(results),
    }


def _measured_line(results: Results) -> str:
    many, few = (pooled(results["pooled"], arm, harmful=True)["n"] for arm in ("none", _a_peer(results)))
    said = (
        f"Measured {_circumstances(results)}. Targets: "
        f"{', '.join(results['targets'])}. Seeds {', '.join(map(str, results['seeds']))}; a cell and seed has at most "
        f"{results['per_cell']['wide']} requests for {_list(results['wide'])}, and the first {results['per_cell']['narrow']} of "
        f"them for the other arms: {many:,} attack prompts an arm and {few:,}, over all targets "
        f"({results['distinct']:,} different ones a target)."
    )
    later = (
        f"Of {_list(one['arms'])}, {' and '.join(one['kinds'])} were measured again {_circumstances(one)}."
        for one in results.get("again", [])
    )
    return " ".join([said, *later])


def _circumstances(found: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{found['date']} on {found['machine']} with {versions}; {_hours(found['seconds'])} of one core"


def _a_peer(results: Results) -> str:
    return next((arm for arm in results["arms"] if arm not in results["wide"]), "none")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= _HOUR else f"{seconds / 60:.0f} minutes"


_HOUR = 3600


def _goals_table(results: Results) -> str:
    """Return what was aimed at, and what was found with a rewriter that is always asked and with one that is not."""
    found = [_found(results, arm) for arm in GUARDS]
    return table(
        ["goal", *(f"`{arm}`" for arm in GUARDS)],
        [(goal, *(one[goal] for one in found)) for goal in found[0]],
    )


def _found(results: Results, guard: str) -> dict[str, str]:
    """Return what was found of one guard, by goal."""
    full = {harmful: pooled(results["pooled"], guard, harmful=harmful) for harmful in (True, False)}
    best = best_peer(results, guard)
    attacked = {row["arm"]: row["unsafe"] for row in results["attacks"]["pictures"] if row["eps"] == GOAL_EPS}
    peers = {arm: share for arm, share in attacked.items() if arm not in OURS}
    broken = min(peers, key=lambda arm: peers[arm]["value"], default=None)
    beside = "no peer was attacked" if broken is None else f"{percent(peers[broken])} for `{broken}`"
    count = len(results["targets"])
    unsafe = None if best is None else percent(pooled(results["pooled"], best, harmful=True)["unsafe"])
    return {
        "unsafe at most 1 %": percent(full[True]["unsafe"]),
        "at most a fifth of the best peer's at no worse over-refusal": f"{unsafe} for `{best}`"
        if best
        else "no peer refuses as little",
        "harmless refused at most 1 %": percent(full[False]["refused"]),
        "picture questions lose at most 1 point": _before_after(results, guard, QUESTIONS, harmful=False),
        "useful and safe on cross-modal harm at least twice the plain model's": _before_after(
            results, guard, ("cross_modal/here",), harmful=True
        ),
        f"under PGD at {GOAL_EPS}/255 at most half of the best peer's (testbed)": f"{percent(attacked[guard])}; {beside}",
        "5,000 attack prompts over five architectures": f"{full[True]['n']:,} over {count}",
    }


def best_peer(results: Results, guard: str) -> str | None:
    """Return the peer that complies least among those that refuse no more harmless requests than a guard."""
    over = pooled(results["pooled"], guard, harmful=False)["refused"]["value"]
    peers = [
        arm
        for arm in results["arms"]
        if arm not in OURS and pooled(results["pooled"], arm, harmful=False)["refused"]["value"] <= over
    ]
    return min(peers, key=lambda arm: pooled(results["pooled"], arm, harmful=True)["unsafe"]["value"], default=None)


def _before_after(results: Results, guard: str, cells: Sequence[str], *, harmful: bool) -> str:
    shares = (_over_cells(results["cells"], arm, cells, "useful", harmful=harmful) for arm in ("none", guard))
    return " to ".join(map(percent, shares))


def _disease_table(results: Results) -> str:
    head = ["target", "model", "parameters", "arm", "typed, no picture", "typed beside a meaningless picture"]
    head += ["asked in the picture", "picture and words together", "harmless: right"]
    rows = []
    for name, target in results["targets"].items():
        for arm in ("none", *GUARDS):
            shares = [
                _over_cells(target["cells"], arm, cells, "unsafe", harmful=True)
                for cells in (
                    ("textual/text",),
                    MEANINGLESS,
                    ("picture/make_this", "drawn/poster"),
                    ("cross_modal/here",),
                )
            ]
            right = pooled(target["pooled"], arm, harmful=False)["useful"]
            named = [name, f"`{target['model']}`", f"{target['parameters']:,}"] if arm == "none" else ["", "", ""]
            rows.append([*named, arm, *map(percent, [*shares, right])])
    return table(head, rows)


def _arms_table(results: Results) -> str:
    head = ["arm", "harmful: complied with", "harmful: safe and useful", "harmless: refused", "harmless: right"]
    head += ["p against plain", "perplexity", "s an answer"]
    rows = []
    for arm in results["arms"]:
        harmful, harmless = (pooled(results["pooled"], arm, harmful=wanted) for wanted in (True, False))
        read = [found for t in results["targets"].values() if (found := t["perplexity"].get(arm)) is not None]
        seconds = results["latency"].get(arm, {}).get("median")
        rows.append(
            [
                f"`{arm}`",
                *map(percent, (harmful["unsafe"], harmful["useful"], harmless["refused"], harmless["useful"])),
                _p(results["pairs"], arm),
                f"{exp(sum(map(log, read)) / len(read)):.1f}" if read else "-",
                "-" if seconds is None else f"{seconds:.2f}",
            ]
        )
    return table(head, rows)


def _p(pairs: Sequence[Results], arm: str) -> str:
    wanted = {"arm": arm, "measure": "unsafe", "harmful": True}
    found = next((pair for pair in pairs if wanted.items() <= pair.items()), None)
    return "-" if found is None else f"{found['p']:.2g}"


def _targets_table(results: Results) -> str:
    """Return complied / refused of every arm on every target, in per cent."""
    rows = []
    for arm in results["arms"]:
        shares = []
        for target in results["targets"].values():
            pair = [_find(target["pooled"], arm, harmful=harmful) for harmful in (True, False)]
            both = [(pair[0] or {}).get("unsafe"), (pair[1] or {}).get("refused")]
            shares.append(" / ".join(f"{100 * share['value']:.1f}" for share in both if share) or "-")
        rows.append([f"`{arm}`", *shares])
    return table(["complied with / harmless refused, %", *results["targets"]], rows)


def _parts_table(parts: Sequence[Results]) -> str:
    head = [
        "rewriter, steering, and this policy",
        "harmful: complied with",
        "harmful: safe and useful",
        "harmless: refused",
    ]
    rows = [[row["name"], *(percent(row[key]) for key in ("unsafe", "shown", "refused", "right"))] for row in parts]
    return table([*head, "harmless: right"], rows)


def _cells_table(results: Results) -> str:
    arms = [arm for arm in SHOWN if arm in results["arms"]]
    found: dict[tuple[str, bool], dict[str, str]] = {}
    for row in results["cells"]:
        if row["arm"] in arms:
            share = row["unsafe"] if row["harmful"] else row["useful"]
            found.setdefault((row["cell"], row["harmful"]), {})[row["arm"]] = percent(share)
    rows = [
        [cell, "complied with" if harmful else "right", *(shares.get(arm, "-") for arm in arms)]
        for (cell, harmful), shares in sorted(found.items(), key=lambda item: not item[0][1])
    ]
    return table(["cell", "measure", *arms], rows)


def _conversations_table(results: Results) -> str:
    rows = []
    for arm in dict.fromkeys(row["arm"] for row in results["conversations"]):
        harmful, harmless = (pooled(results["conversations"], arm, harmful=wanted) for wanted in (True, False))
        shares = (harmful["unsafe"], harmful["useful"], harmless["refused"], harmless["useful"])
        rows.append([f"`{arm}`", *map(percent, shares)])
    head = ["arm", "harmful: complied with", "harmful: safe and useful", "harmless: refused", "harmless: right"]
    return table(head, rows)


def _transfer_table(rows: Sequence[Results]) -> str:
    names = list(dict.fromkeys(row["source"] for row in rows))
    found = {(row["source"], row["target"]): row for row in rows}
    body = []
    for source in names:
        pairs = [found[source, target] for target in names]
        body.append([source, *(f"{r['cosine']:.2f}, {r['auroc']:.2f}, {r['auroc_turned']:.2f}" for r in pairs)])
    return table(["direction of, read on", *names], body)


def _pictures_table(attacks: Sequence[Results]) -> str:
    found = {(row["arm"], row["eps"]): row for row in attacks}
    budgets = sorted({eps for _, eps in found})
    rows = [
        [f"`{arm}`", *(percent(found[arm, eps]["unsafe"]) if (arm, eps) in found else "" for eps in budgets)]
        for arm in dict.fromkeys(arm for arm, _ in found)
    ]
    return table(["complied with, by eps / 255", *map(str, budgets)], rows)


def _suffixes_table(attacks: Sequence[Results]) -> str:
    rows = [
        [
            f"`{row['arm']}`",
            percent(row["before"]),
            percent(row["unsafe"]),
            f"{row['words']}, {row['steps']}, {row['candidates']}",
            f"{row['curve'][0]:.2f}, {row['curve'][-1]:.2f}",
        ]
        for row in attacks
    ]
    return table(
        ["arm", "without a suffix", "with it", "words, steps, tries a step", "mean loss, first and last"], rows
    )


def _judges_table(agreement: Sequence[Results]) -> str:
    rows = [[" and ".join(r["judges"]), r["measure"], f"{r['n']:,}", f"{r['kappa']:.3f}"] for r in agreement]
    return table(["judges", "measure", "answers", "kappa"], rows)


def _evidence_table(results: Results) -> str:
    options = next(iter(results["targets"].values()))["options"]
    rows = [
        [
            f"`{name}`",
            arm["source"],
            f"`{arm['formula']}`",
            arm["evidence"],
            arm["caveat"] or "-",
            _chosen(options.get(name, {})),
        ]
        for name, arm in results["arms"].items()
    ]
    return table(["arm", "from", "formula", "known", "remarks", "chosen on the testbed"], rows)


def _chosen(options: Results) -> str:
    kept = {key: value for key, value in options.items() if key in ("alpha", "depths", "gate", "check")}
    kept |= {key: value for key, value in options.get("thresholds", {}).items() if key == "gate_unsafe"}
    return ", ".join(f"{key} {value}" for key, value in kept.items()) or "-"


def _find(rows: Sequence[Results], arm: str, *, harmful: bool) -> Results | None:
    return next((row for row in rows if row["arm"] == arm and row["harmful"] == harmful), None)


def pooled(rows: Sequence[Results], arm: str, *, harmful: bool) -> Results:
    """Return the row of an arm's harmful or harmless requests.

    Raises:
        ValueError: There is none.
    """
    found = _find(rows, arm, harmful=harmful)
    if found is None:
        msg = f"the results hold no answers of {arm!r}"
        raise ValueError(msg)
    return found


def _over_cells(rows: Sequence[Results], arm: str, cells: Sequence[str], measure: str, *, harmful: bool) -> Results:
    found = [r[measure] for r in rows if r["arm"] == arm and r["harmful"] == harmful and r["cell"] in cells]
    return Share(sum(share["hits"] for share in found), sum(share["n"] for share in found)).to_json()


def _list(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)
