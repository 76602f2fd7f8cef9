"""Tables and figures of docs/evaluation.md, from docs/results/evaluation.json alone."""

from __future__ import annotations

import json
import os
import re
from math import exp, log
from pathlib import Path
from textwrap import fill, indent
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from vlmguard_lab.evaluation import plots
from vlmguard_lab.evaluation.arms.guards import GUARD_ARMS
from vlmguard_lab.evaluation.report import percent
from vlmguard_lab.evaluation.statistics import Share

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes

ROOT = Path(__file__).parent.parent
PAGE, README, IMAGES = ROOT / "docs/evaluation.md", ROOT / "README.md", ROOT / "docs/images"
OURS = tuple(arm.card.name for arm in GUARD_ARMS)
GUARDS = ("full", "full_adaptive", "full_answer_first")
"""Arms that the goals are set for."""

SHOWN = ("none", "steering", "gate_refuses", "rewriting", *GUARDS, "ecso", "shiftdc")
"""Arms that are shown cell by cell."""

MEANINGLESS = tuple(f"meaningless/{variant}" for variant in ("blank", "noise", "plain", "irrelevant"))
QUESTIONS = ("picture/identity", "picture/kind")
GOAL_EPS = 16
RED, GREEN, GREY = "#b91c1c", "#0f766e", "#94a3b8"

Results = dict[str, Any]


def as_json(results: Results) -> str:
    """Return results as JSON with one line for every row of every list."""
    lines = []
    for key, value in results.items():
        body = _lines(value, "  ") if isinstance(value, dict) else _rows(value, " ")
        lines.append(f" {json.dumps(key)}: {body}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _lines(value: Results, indent: str) -> str:
    inside = [
        f"{indent}{json.dumps(key)}: {_lines(one, indent + ' ') if isinstance(one, dict) else _rows(one, indent)}"
        for key, one in value.items()
    ]
    return "{\n" + ",\n".join(inside) + f"\n{indent[:-1]}}}" if inside else "{}"


def _rows(value: Any, indent: str) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        rows = (f"{indent} {json.dumps(row, ensure_ascii=False)}" for row in value)
        return "[\n" + ",\n".join(rows) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


def publish(results: Results) -> None:
    """Draw the figures and write the tables between their marks."""
    shown = {**results, "pooled": _as_suite(results["pooled"]), "cells": _as_suite(results["cells"])}
    drawn = {
        "scatter": plots.scatter(shown, "testbed", "oracle"),
        "harmful": plots.heatmap(shown, "testbed", "oracle", harmful=True),
        "harmless": plots.heatmap(shown, "testbed", "oracle", harmful=False),
        "budgets": budgets_figure(results["attacks"]["pictures"]),
        "suffixes": suffixes_figure(results["attacks"]["suffixes"]),
        "sweeps": sweeps_figure(results["sweeps"]),
        "states": states_figure(results["states"]),
    }
    for name, figure in drawn.items():
        figure.savefig(IMAGES / f"evaluation-{name}.png", dpi=110)
    place(PAGE, tables(results))
    place(README, {"evaluation": summary(results)})


def place(file: Path, parts: dict[str, str]) -> None:
    """Write texts between their marks, indented as the mark is.

    Raises:
        ValueError: The file has no place for one of them.
    """
    page = file.read_text()
    for name, text in parts.items():
        found = re.search(rf"^( *)<!-- {name} -->$.*?<!-- end of {name} -->$", page, flags=re.DOTALL | re.MULTILINE)
        if found is None:
            msg = f"{file} has no place for the table {name!r}: write <!-- {name} --> and <!-- end of {name} --> there"
            raise ValueError(msg)
        page = page[: found.start()] + indent(marked(name, text), found[1]) + page[found.end() :]
    beside = file.with_name(file.name + ".tmp")
    beside.write_text(page, encoding="utf-8")
    os.replace(beside, file)


def marked(name: str, text: str) -> str:
    """Return a text between its marks."""
    return f"<!-- {name} -->\n{text}\n<!-- end of {name} -->"


def summary(results: Results) -> str:
    """Return the README's two sentences."""
    arms = ("none", *GUARDS)
    asked = _pooled(results["pooled"], "none", harmful=True)["n"]
    unsafe = [percent(_pooled(results["pooled"], arm, harmful=True)["unsafe"]) for arm in arms]
    refused = [percent(_pooled(results["pooled"], arm, harmful=False)["refused"]) for arm in arms]
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


def _as_suite(rows: Sequence[Results]) -> list[Results]:
    return [row for row in rows if row["suite"] == "testbed"]


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
    many, few = (_pooled(results["pooled"], arm, harmful=True)["n"] for arm in ("none", _a_peer(results)))
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
    return _table(
        ["goal", *(f"`{arm}`" for arm in GUARDS)],
        [(goal, *(one[goal] for one in found)) for goal in found[0]],
    )


def _found(results: Results, guard: str) -> dict[str, str]:
    """Return what was found of one guard, by goal."""
    full = {harmful: _pooled(results["pooled"], guard, harmful=harmful) for harmful in (True, False)}
    best = best_peer(results, guard)
    attacked = {row["arm"]: row["unsafe"] for row in results["attacks"]["pictures"] if row["eps"] == GOAL_EPS}
    peers = {arm: share for arm, share in attacked.items() if arm not in OURS}
    broken = min(peers, key=lambda arm: peers[arm]["value"], default=None)
    beside = "no peer was attacked" if broken is None else f"{percent(peers[broken])} for `{broken}`"
    count = len(results["targets"])
    unsafe = None if best is None else percent(_pooled(results["pooled"], best, harmful=True)["unsafe"])
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
    over = _pooled(results["pooled"], guard, harmful=False)["refused"]["value"]
    peers = [
        arm
        for arm in results["arms"]
        if arm not in OURS and _pooled(results["pooled"], arm, harmful=False)["refused"]["value"] <= over
    ]
    return min(peers, key=lambda arm: _pooled(results["pooled"], arm, harmful=True)["unsafe"]["value"], default=None)


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
            right = _pooled(target["pooled"], arm, harmful=False)["useful"]
            named = [name, f"`{target['model']}`", f"{target['parameters']:,}"] if arm == "none" else ["", "", ""]
            rows.append([*named, arm, *map(percent, [*shares, right])])
    return _table(head, rows)


def _arms_table(results: Results) -> str:
    head = ["arm", "harmful: complied with", "harmful: safe and useful", "harmless: refused", "harmless: right"]
    head += ["p against plain", "perplexity", "s an answer"]
    rows = []
    for arm in results["arms"]:
        harmful, harmless = (_pooled(results["pooled"], arm, harmful=wanted) for wanted in (True, False))
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
    return _table(head, rows)


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
    return _table(["complied with / harmless refused, %", *results["targets"]], rows)


def _parts_table(parts: Sequence[Results]) -> str:
    head = [
        "rewriter, steering, and this policy",
        "harmful: complied with",
        "harmful: safe and useful",
        "harmless: refused",
    ]
    rows = [[row["name"], *(percent(row[key]) for key in ("unsafe", "shown", "refused", "right"))] for row in parts]
    return _table([*head, "harmless: right"], rows)


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
    return _table(["cell", "measure", *arms], rows)


def _conversations_table(results: Results) -> str:
    rows = []
    for arm in dict.fromkeys(row["arm"] for row in results["conversations"]):
        harmful, harmless = (_pooled(results["conversations"], arm, harmful=wanted) for wanted in (True, False))
        shares = (harmful["unsafe"], harmful["useful"], harmless["refused"], harmless["useful"])
        rows.append([f"`{arm}`", *map(percent, shares)])
    head = ["arm", "harmful: complied with", "harmful: safe and useful", "harmless: refused", "harmless: right"]
    return _table(head, rows)


def _transfer_table(rows: Sequence[Results]) -> str:
    names = list(dict.fromkeys(row["source"] for row in rows))
    found = {(row["source"], row["target"]): row for row in rows}
    body = []
    for source in names:
        pairs = [found[source, target] for target in names]
        body.append([source, *(f"{r['cosine']:.2f}, {r['auroc']:.2f}, {r['auroc_turned']:.2f}" for r in pairs)])
    return _table(["direction of, read on", *names], body)


def _pictures_table(attacks: Sequence[Results]) -> str:
    found = {(row["arm"], row["eps"]): row for row in attacks}
    budgets = sorted({eps for _, eps in found})
    rows = [
        [f"`{arm}`", *(percent(found[arm, eps]["unsafe"]) if (arm, eps) in found else "" for eps in budgets)]
        for arm in dict.fromkeys(arm for arm, _ in found)
    ]
    return _table(["complied with, by eps / 255", *map(str, budgets)], rows)


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
    return _table(
        ["arm", "without a suffix", "with it", "words, steps, tries a step", "mean loss, first and last"], rows
    )


def _judges_table(agreement: Sequence[Results]) -> str:
    rows = [[" and ".join(r["judges"]), r["measure"], f"{r['n']:,}", f"{r['kappa']:.3f}"] for r in agreement]
    return _table(["judges", "measure", "answers", "kappa"], rows)


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
    return _table(["arm", "from", "formula", "known", "remarks", "chosen on the testbed"], rows)


def _chosen(options: Results) -> str:
    kept = {key: value for key, value in options.items() if key in ("alpha", "depths", "gate", "check")}
    kept |= {key: value for key, value in options.get("thresholds", {}).items() if key == "gate_unsafe"}
    return ", ".join(f"{key} {value}" for key, value in kept.items()) or "-"


def _find(rows: Sequence[Results], arm: str, *, harmful: bool) -> Results | None:
    return next((row for row in rows if row["arm"] == arm and row["harmful"] == harmful), None)


def _pooled(rows: Sequence[Results], arm: str, *, harmful: bool) -> Results:
    found = _find(rows, arm, harmful=harmful)
    if found is None:
        msg = f"the results hold no answers of {arm!r}"
        raise ValueError(msg)
    return found


def _over_cells(rows: Sequence[Results], arm: str, cells: Sequence[str], measure: str, *, harmful: bool) -> Results:
    found = [r[measure] for r in rows if r["arm"] == arm and r["harmful"] == harmful and r["cell"] in cells]
    return Share(sum(share["hits"] for share in found), sum(share["n"] for share in found)).to_json()


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([_row(head), "|" + " --- |" * len(head), *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _list(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def budgets_figure(attacks: Sequence[Results]) -> Figure:
    """Plot success by budget of a picture attack, with 95 % intervals; arms attacked at one budget are points."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    budgets = sorted({row["eps"] for row in attacks})
    for index, arm in enumerate(dict.fromkeys(row["arm"] for row in attacks)):
        rows = sorted((row for row in attacks if row["arm"] == arm), key=lambda row: row["eps"])
        curve = len(rows) > 1
        across = [budgets.index(row["eps"]) + 0.02 * (index - 4) for row in rows]
        _errors(axes, across, [row["unsafe"] for row in rows], arm, line=curve, bold=arm in OURS)
    axes.set_xticks(range(len(budgets)), [str(eps) for eps in budgets])
    axes.set_xlabel("eps / 255")
    axes.set_ylabel("complied with, %")
    axes.set_ylim(-4, 104)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _errors(
    axes: Axes, across: Sequence[float], shares: Sequence[Results], name: str, *, line: bool, bold: bool
) -> None:
    up = [100 * share["value"] for share in shares]
    bars = [[max(0.0, abs(y - 100 * s["ci95"][side])) for y, s in zip(up, shares, strict=True)] for side in (0, 1)]
    style = "o-" if line else "x"
    axes.errorbar(
        across, up, yerr=bars, fmt=style, label=name, linewidth=2 if bold else 1, markersize=4, capsize=2, alpha=0.85
    )


def suffixes_figure(attacks: Sequence[Results]) -> Figure:
    """Plot the mean loss of a suffix attack by step, and how many answers complied in the end."""
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for row in attacks:
        label = f"{row['arm']}: {row['unsafe']['hits']} of {row['unsafe']['n']} complied"
        axes.plot(range(len(row["curve"])), row["curve"], marker="o", markersize=3, linewidth=1.4, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("mean loss")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def sweeps_figure(sweeps: dict[str, list[Results]]) -> Figure:
    """Plot what the steering does at other layers (the causal curve) and strengths."""
    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    names = {"layer": "decoder layer that is edited", "alpha": "strength alpha"}
    for axes, (name, rows) in zip(figure.subplots(1, 2), sweeps.items(), strict=True):
        across = [row[name] for row in rows]
        for key, marker, colour, label in (
            ("safe", "o", RED, "harmful: not complied with"),
            ("kept", "s", GREEN, "harmless: right answers kept"),
        ):
            axes.plot(across, [100 * row[key] for row in rows], marker=marker, color=colour, label=label)
        axes.set_xlabel(names[name])
        axes.set_ylabel("%")
        axes.set_ylim(-4, 104)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def states_figure(states: Results) -> Figure:
    """Plot requests in two dimensions as text, beside a picture, and beside it steered (after VLM-Guard's figure 2)."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    titles = {"text": "typed, no picture", "picture": "beside an irrelevant picture", "steered": "beside it, steered"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for kind, colour in (("harmful", RED), ("harmless", GREEN)):
            points = states["points"][f"{name} {kind}"]
            axes.scatter(*zip(*points, strict=True), s=14, alpha=0.7, color=colour, label=kind)
            if name != "text":
                home = states["points"][f"text {kind}"]
                axes.scatter(*zip(*home, strict=True), s=14, alpha=0.12, color=GREY, zorder=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("PC 1")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("PC 2")
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(
        f"Held-out requests at layer {states['layer']} (edited: {', '.join(map(str, states['steered']))}); grey: as typed",
        fontsize=10,
    )
    return figure
