"""Draw the README's picture from the demo's measured cells.

python benchmarks/plot_demo.py docs/results/demo.json docs/images/result.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

ARMS = {"plain": "#b91c1c", "guarded": "#0f766e"}
ROWS = (
    ("textual", "text", "typed, no picture"),
    ("meaningless", "blank", "+ blank picture"),
    ("meaningless", "noise", "+ noise"),
    ("meaningless", "plain", "+ plain colour"),
    ("meaningless", "irrelevant", "+ unrelated thing"),
)


def main(source: Path, target: Path) -> None:
    """Read the cells and write the picture."""
    cells = {(c["family"], c["variant"], c["harmful"], c["arm"]): c for c in json.loads(source.read_text())["cells"]}
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    for index, (arm, colour) in enumerate(ARMS.items()):
        rows = [cells[family, variant, True, arm] for family, variant, _ in ROWS]
        values = [100 * row["unsafe"] for row in rows]
        errors = [
            [100 * (row["unsafe"] - row["ci95"]["unsafe"][0]) for row in rows],
            [100 * (row["ci95"]["unsafe"][1] - row["unsafe"]) for row in rows],
        ]
        places = [place + (index - 0.5) * 0.36 for place in range(len(ROWS))]
        axes.bar(places, values, 0.34, color=colour, label=arm, yerr=errors, ecolor="#475569", capsize=3)
        for place, value, above in zip(places, values, errors[1], strict=True):
            axes.text(place, value + above + 2, f"{value:.0f}", ha="center", fontsize=9, color=colour)
    axes.set_xticks(range(len(ROWS)), [label for _, _, label in ROWS])
    axes.set_ylabel("harmful requests\ncomplied with, %")
    axes.set_ylim(0, 105)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=160)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
