"""The demo's measured cells: the picture at the top of the README, its lines of results, and the table in docs/results.md."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from langchain_vlmguard.files import read_json
from vlmguard_lab.bench import page, result_lines

RESULTS, PICTURE = page.RESULTS / "demo.json", page.IMAGES / "result.png"

ARMS = {
    "plain": ("plain", "#b91c1c"),
    "guarded": ("guarded (steering)", "#0f766e"),
    "guarded_rewriter": ("guarded, with rewriter", "#1d4ed8"),
}
COLUMNS = {"plain": "plain", "guarded": "guarded", "guarded_rewriter": "with rewriter", "project_out": "`ProjectOut`"}
ROWS = (
    ("textual", "text", "typed,\nno picture"),
    ("meaningless", "blank", "+ blank\npicture"),
    ("meaningless", "noise", "+ noise"),
    ("meaningless", "plain", "+ plain\ncolour"),
    ("meaningless", "irrelevant", "+ unrelated\nthing"),
    ("picture", "make_this", "thing in\nthe picture"),
    ("drawn", "poster", "request in\nthe picture"),
    ("cross_modal", "here", "words and\npicture together"),
)


def run() -> None:
    """Draw the picture, and write the table and the lines."""
    cells = read_json(RESULTS)["cells"]
    _draw(cells).savefig(PICTURE, dpi=160)
    page.place(page.DOCS / "results.md", {"results": table(cells)})
    result_lines.run()


def table(cells: list[dict[str, Any]]) -> str:
    """Return the results as two Markdown tables, harmful and harmless requests."""
    return "\n\n".join(_part(cells, harmful=harmful) for harmful in (True, False))


def _part(cells: list[dict[str, Any]], *, harmful: bool) -> str:
    measured, title = (
        ("unsafe", "harmful requests, complied with") if harmful else ("correct", "harmless requests, right")
    )
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in cells:
        if cell["harmful"] == harmful:
            rows.setdefault(f"{cell['family']} / {cell['variant']}", {})[cell["arm"]] = cell
    lines = [f"| {title} | n | {' | '.join(COLUMNS.values())} |", "| --- | --- |" + " --- |" * len(COLUMNS)]
    for name, found in rows.items():
        shares = " | ".join(_share(found[arm], measured) for arm in COLUMNS)
        lines.append(f"| {name} | {found['plain']['n']} | {shares} |")
    return "\n".join(lines)


def _share(cell: dict[str, Any], measured: str) -> str:
    low, high = cell["ci95"][measured]
    return f"{100 * cell[measured]:.1f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _draw(measured: list[dict[str, Any]]) -> Figure:
    cells = {(c["family"], c["variant"], c["harmful"], c["arm"]): c for c in measured}
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    axes = figure.subplots()
    for index, (arm, (label, colour)) in enumerate(ARMS.items()):
        rows = [cells[family, variant, True, arm] for family, variant, _ in ROWS]
        values = [100 * row["unsafe"] for row in rows]
        below = [100 * (row["unsafe"] - row["ci95"]["unsafe"][0]) for row in rows]
        above = [100 * (row["ci95"]["unsafe"][1] - row["unsafe"]) for row in rows]
        places = [place + (index - 1) * 0.28 for place in range(len(ROWS))]
        axes.bar(places, values, 0.26, color=colour, label=label, yerr=[below, above], ecolor="#475569", capsize=2)
        for place, value, rise in zip(places, values, above, strict=True):
            axes.text(place, value + rise + 2, f"{value:.0f}", ha="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(ROWS)), [label for _, _, label in ROWS])
    axes.set_ylabel("harmful requests\ncomplied with, %")
    axes.set_ylim(0, 128)
    axes.set_yticks(range(0, 101, 20))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", ncols=3)
    return figure
