"""Plots of an evaluation: safety against usefulness, and unsafe answers by cell. Needs the `eval` extra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def scatter(results: dict[str, Any], suite: str, judge: str) -> Figure:
    """Plot every arm: unsafe answers to harmful requests against right answers to harmless ones, with 95 % intervals.

    Where a suite has but one of the two, or its judge cannot tell what is useful, refusals stand in or the axis stays at 0.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5.5), layout="constrained")
    axes = figure.subplots()
    pooled = [row for row in results["pooled"] if row["suite"] == suite and row["judge"] == judge]
    labels: list[tuple[float, float]] = []
    for arm in dict.fromkeys(row["arm"] for row in pooled):
        harmful, harmless = (_row(pooled, arm, harmful=h) for h in (True, False))
        _cross(axes, arm, _share(harmful, "unsafe"), _share(harmless, "useful") or _answered(harmless), labels)
    axes.set_xlabel("harmful requests complied with, %")
    axes.set_ylabel("harmless requests answered rightly, %")
    axes.set_xlim(-4, 104)
    axes.set_ylim(-4, 104)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def heatmap(results: dict[str, Any], suite: str, judge: str, *, harmful: bool) -> Figure:
    """Plot cells by arms: unsafe answers to harmful requests, or harmless requests not answered rightly."""
    from matplotlib.figure import Figure

    rows = [
        row for row in results["cells"] if row["suite"] == suite and row["judge"] == judge and row["harmful"] == harmful
    ]
    cells, arms = list(dict.fromkeys(row["cell"] for row in rows)), list(dict.fromkeys(row["arm"] for row in rows))
    table = {(row["cell"], row["arm"]): _value(row, harmful=harmful) for row in rows}
    grid = [[table.get((cell, arm), float("nan")) for arm in arms] for cell in cells]
    figure = Figure(figsize=(2.6 + 0.62 * len(arms), 1.8 + 0.34 * len(cells)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid, cmap="Reds", vmin=0, vmax=100, aspect="auto")
    for y, line in enumerate(grid):
        for x, value in enumerate(line):
            axes.text(
                x, y, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white" if value > _DARK else "black"
            )
    axes.set_xticks(range(len(arms)), arms, rotation=50, ha="right", fontsize=8)
    axes.set_yticks(range(len(cells)), cells, fontsize=8)
    axes.set_title("harmful: complied with, %" if harmful else "harmless: not answered rightly, %", fontsize=10)
    return figure


_DARK = 60


def _row(rows: Sequence[dict[str, Any]], arm: str, *, harmful: bool) -> dict[str, Any] | None:
    return next((row for row in rows if row["arm"] == arm and row["harmful"] == harmful), None)


def _share(row: dict[str, Any] | None, measure: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = row.get(measure) if row else None
    return found


def _answered(row: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the share not refused, for judges that cannot tell what is useful."""
    refused = _share(row, "refused")
    if refused is None:
        return None
    low, high = refused["ci95"]
    return {"value": 1 - refused["value"], "ci95": [1 - high, 1 - low]}


def _value(row: dict[str, Any], *, harmful: bool) -> float:
    if harmful:
        return 100 * float(row["unsafe"]["value"]) if "unsafe" in row else float("nan")
    right = row.get("useful") or _answered(row)
    return float("nan") if right is None else 100 * (1 - float(right["value"]))


def _cross(
    axes: Axes, arm: str, across: dict[str, Any] | None, up: dict[str, Any] | None, labels: list[tuple[float, float]]
) -> None:
    (x, left, right), (y, below, above) = _point(across), _point(up)
    axes.errorbar(
        [x], [y], xerr=[[left], [right]], yerr=[[below], [above]], fmt="o", capsize=2, markersize=5, alpha=0.85
    )
    free = (
        (at, place)
        for distance in range(8)
        for at in (y + 1.2 - distance * _LABEL[1], y + 1.2 + distance * _LABEL[1])
        for place in (x + 1, max(x - _LABEL[0], -3))
        if not any(abs(at - other) < _LABEL[1] and abs(place - beside) < _LABEL[0] for beside, other in labels)
    )
    at, place = next(free, (y, x))
    labels.append((place, at))
    line = {"arrowstyle": "-", "color": "#94a3b8", "linewidth": 0.5}
    axes.annotate(arm, (x, y), xytext=(place, at), fontsize=7, va="center", arrowprops=line)


_LABEL = (11.0, 2.4)
"""Room that a label takes, in the axes' per cent."""


def _point(share: dict[str, Any] | None) -> tuple[float, float, float]:
    if share is None:
        return 0.0, 0.0, 0.0
    value, (low, high) = 100 * share["value"], (100 * bound for bound in share["ci95"])
    return value, max(0.0, value - low), max(0.0, high - value)
