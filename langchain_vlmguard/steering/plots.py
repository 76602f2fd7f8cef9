"""Pictures of safety directions, after VLM-Guard's figure 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

HARMFUL, HARMLESS = "#c2410c", "#0f766e"


def plot_directions(name: str, scores: dict[str, list[float]], map2d: Tensor, layer: int | None = None) -> Figure:
    """Draw separability per layer and the anchors in 2-D, as text alone and beside neutral pictures.

    Args:
        name: Whose directions they are.
        scores: `SafetyDirections.separability`.
        map2d: `SafetyDirections.map2d`, `(4, layers, anchors, 2)`.
        layer: Layer of the 2-D panels; the one that separates text best when `None`.

    Raises:
        ImportError: matplotlib is missing; it comes with the `plot` extra.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        msg = "plots need matplotlib: pip install 'langchain-vlmguard[plot]'"
        raise ImportError(msg) from error
    best = max(range(len(scores["text"])), key=scores["text"].__getitem__) if layer is None else layer
    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _separability(left, scores, best)
    _scatter(middle, map2d, best, pictured=False)
    _scatter(right, map2d, best, pictured=True)
    right.set_xlim(middle.get_xlim())
    right.set_ylim(middle.get_ylim())
    figure.suptitle(f"Safety directions of {name}")
    return figure


def _separability(axes: Axes, scores: dict[str, list[float]], marked: int) -> None:
    for condition, style in (("text", "o-"), ("picture", "s--")):
        label = "text alone" if condition == "text" else "beside neutral pictures"
        axes.plot(range(len(scores[condition])), scores[condition], style, color="#334155", label=label)
    axes.axvline(marked, color="#cbd5e1", zorder=0)
    axes.set(xlabel="decoder layer", ylabel="class distance (d')", title="How far the classes lie apart")
    axes.legend(frameon=False)


def _scatter(axes: Axes, map2d: Tensor, layer: int, *, pictured: bool) -> None:
    for index, (name, colour) in enumerate((("harmful", HARMFUL), ("harmless", HARMLESS))):
        points = map2d[index + 2 * pictured, layer]
        axes.scatter(points[:, 0], points[:, 1], s=14, alpha=0.7, color=colour, label=name)
    where = "beside neutral pictures" if pictured else "text alone"
    axes.set(xlabel="PC 1", ylabel="PC 2", title=f"Layer {layer}, {where}")
    axes.legend(frameon=False)
