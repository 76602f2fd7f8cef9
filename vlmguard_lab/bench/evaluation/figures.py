"""The figures of docs/testbed_results.md, from docs/results/evaluation.json alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from vlmguard_lab.bench.evaluation.tables import OURS
from vlmguard_lab.evaluation import plots

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from vlmguard_lab.bench.evaluation.tables import Results

RED, GREEN, GREY = "#b91c1c", "#0f766e", "#94a3b8"


def draw(results: Results, folder: Path) -> None:
    """Draw every figure into a folder."""
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
        figure.savefig(folder / f"evaluation-{name}.png", dpi=110)


def _as_suite(rows: Sequence[Results]) -> list[Results]:
    return [row for row in rows if row["suite"] == "testbed"]


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
