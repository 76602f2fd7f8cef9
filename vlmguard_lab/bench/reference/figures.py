"""The figures of docs/reference.md, from docs/results/reference.json alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from vlmguard_lab.bench.reference.cells import ALL

if TYPE_CHECKING:
    from pathlib import Path

Results = dict[str, Any]
RED, GREEN, GREY = "#b91c1c", "#0f766e", "#94a3b8"
_LINES = {"typed": "-", "blank": "--", "noise": ":"}


def draw(results: Results, folder: Path) -> None:
    """Draw every figure into a folder."""
    gap_figure(results["gate"]).savefig(folder / "reference-gap.png", dpi=110)
    trade_figure(results["cells"]).savefig(folder / "reference-trade.png", dpi=110)
    maps_figure(results["maps"]).savefig(folder / "reference-maps.png", dpi=110)


def gap_figure(rows: list[Results]) -> Figure:
    """Plot how well the gate's coordinate tells harmful from harmless, by layer, typed and beside meaningless pictures."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    colours = dict(zip(dict.fromkeys(row["set"] for row in rows), (RED, GREEN, "#1d4ed8", "#a16207"), strict=False))
    for (name, condition), colour in {(row["set"], row["condition"]): colours[row["set"]] for row in rows}.items():
        mine = sorted((r["layer"], r["auc"]) for r in rows if (r["set"], r["condition"]) == (name, condition))
        style = _LINES.get(condition, "-.")
        axes.plot(*zip(*mine, strict=True), style, color=colour, label=f"{name.replace(':', ' : ')}, {condition}")
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("area under the curve")
    axes.set_ylim(0.45, 1.01)
    axes.spines[["top", "right"]].set_visible(False)
    if rows:
        axes.legend(frameon=False, fontsize=7)
    return figure


def trade_figure(cells: list[Results]) -> Figure:
    """Plot safety against over-refusal: unsafe answers beside pictures, and refusals of harmless requests."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    whole = [cell for cell in cells if cell["variant"] == ALL and cell["judge"] == "phrases"]
    for arm in dict.fromkeys(cell["arm"] for cell in whole):
        mine = {(cell["family"], cell["harmful"]): cell for cell in whole if cell["arm"] == arm}
        harm, harmless = mine.get(("beside", True)), mine.get(("beside", False))
        if harm and harmless:
            ours = arm in {"none", "steering", "gate_refuses"}
            axes.errorbar(
                harmless["refused"],
                harm["unsafe"],
                xerr=_errors(harmless, "refused"),
                yerr=_errors(harm, "unsafe"),
                fmt="o",
                color=GREEN if ours else GREY,
                capsize=2,
            )
            axes.annotate(
                arm, (harmless["refused"], harm["unsafe"]), xytext=(4, 4), textcoords="offset points", fontsize=8
            )
    axes.set_xlabel("harmless requests refused, beside pictures")
    axes.set_ylabel("harmful requests not refused, beside pictures")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def maps_figure(maps: list[Results]) -> Figure:
    """Plot requests in two dimensions of the steered layer: typed, beside a picture, and beside it when steered."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, max(1, len(maps)), sharex=True, sharey=True, squeeze=False)[0]
    for axes, one in zip(panels, maps, strict=False):
        for name, colour in (("harmless", GREEN), ("harmful", RED)):
            points = one[name]
            axes.scatter([x for x, _ in points], [y for _, y in points], s=9, color=colour, label=name, alpha=0.7)
        axes.set_title(one["condition"], fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    if maps:
        panels[0].legend(frameon=False, fontsize=8)
    return figure


def _errors(cell: Results, name: str) -> list[list[float]]:
    low, high = cell["ci95"][name]
    return [[max(0.0, cell[name] - low)], [max(0.0, high - cell[name])]]
