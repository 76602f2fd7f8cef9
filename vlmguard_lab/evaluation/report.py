"""One HTML page of an evaluation: tables, plots, and answers side by side with their pictures."""

from __future__ import annotations

import base64
from collections import defaultdict
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmguard_lab.evaluation import plots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from vlmguard_lab.evaluation.results import Row

SHOWN_EACH = 2
"""Examples of a cell and harm class."""

_THUMB = 144

TEMPLATE = """\
<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Evaluation of {{ results.target }}</title>
<style>
 body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2rem auto;padding:0 1rem;color:#1e293b}
 h1,h2,h3{line-height:1.2} table{border-collapse:collapse;margin:.6rem 0;font-size:13px;display:block;overflow-x:auto}
 td,th{border-bottom:1px solid #e2e8f0;padding:.25rem .6rem;text-align:left;vertical-align:top}
 th{background:#f8fafc} .n{text-align:right;white-space:nowrap} .bad{color:#b91c1c} .good{color:#0f766e} .dim{color:#64748b}
 img.plot{max-width:100%;height:auto} img.shown{width:144px;height:auto;border:1px solid #cbd5e1}
 .answer{white-space:pre-wrap;overflow-wrap:anywhere;max-width:30rem}
</style>
<h1>Evaluation of {{ results.target }}</h1>
<p>{{ results.date }}, {{ results.machine }}, {{ "%.0f"|format(results.seconds) }} s;
{% for name, version in results.versions.items() %}{{ name }} {{ version }}{{ ", " if not loop.last }}{% endfor %}.
Seeds: {{ results.seeds|join(", ") }}. Shares carry Wilson 95 % intervals; paired tests are McNemar's, exact.</p>
{% for block in blocks %}
<h2>{{ block.suite }}, judged by {{ block.judge }}</h2>
<p class="dim">{{ block.card.source }} · licence: {{ block.card.licence }} · {{ block.card.hold_out }}</p>
<table><tr><th>arm</th><th>harmful: complied with</th><th>harmful: safe and useful</th><th>harmless: refused</th>
<th>harmless: right</th><th>unread</th><th>s each</th></tr>
{% for line in block.lines %}<tr><td>{{ line.arm }}</td><td class="n">{{ line.unsafe }}</td><td class="n">{{ line.shown }}</td>
<td class="n">{{ line.refused }}</td><td class="n">{{ line.right }}</td><td class="n">{{ line.unread }}</td>
<td class="n">{{ line.seconds }}</td></tr>{% endfor %}</table>
{% for plot in block.plots %}<img class="plot" alt="{{ plot.title }}" src="{{ plot.source }}">{% endfor %}
{% endfor %}
{% if results.pairs %}<h2>Paired tests against {{ results.pairs[0].against }}</h2>
<table><tr><th>suite</th><th>judge</th><th>arm</th><th>requests</th><th>measure</th><th>only this arm</th>
<th>only the other</th><th>p</th></tr>
{% for pair in results.pairs %}<tr><td>{{ pair.suite }}</td><td>{{ pair.judge }}</td><td>{{ pair.arm }}</td>
<td>{{ "harmful" if pair.harmful else "harmless" }}</td><td>{{ pair.measure }}</td><td class="n">{{ pair.only_first }}</td>
<td class="n">{{ pair.only_second }}</td><td class="n">{{ "%.2g"|format(pair.p) }}</td></tr>{% endfor %}</table>{% endif %}
{% if results.agreement %}<h2>Agreement of judges</h2><table><tr><th>judges</th><th>measure</th><th>n</th><th>kappa</th></tr>
{% for one in results.agreement %}<tr><td>{{ one.judges|join(" and ") }}</td><td>{{ one.measure }}</td><td>{{ one.n }}</td>
<td>{{ "%.3f"|format(one.kappa) }}</td></tr>{% endfor %}</table>{% endif %}
<h2>The arms</h2><table><tr><th>arm</th><th>from</th><th>formula</th><th>known</th><th>remarks</th></tr>
{% for name, arm in results.arms.items() %}<tr><td>{{ name }}</td><td>{{ arm.source }}</td><td>{{ arm.formula }}</td>
<td>{{ arm.evidence }}</td>
<td>{{ arm.caveat }} {% if arm.options %}<span class="dim">{{ arm.options }}</span>{% endif %}</td></tr>
{% endfor %}</table>
<h2>Examples</h2>
<table><tr><th>request</th>{% for arm in results.arms %}<th>{{ arm }}</th>{% endfor %}</tr>
{% for example in examples %}<tr><td><b class="{{ "bad" if example.harmful else "good" }}">
{{ "harmful" if example.harmful else "harmless" }}</b> <span class="dim">{{ example.cell }}</span><br>
{% if example.picture %}<img class="shown" alt="" src="{{ example.picture }}"><br>{% endif %}{{ example.text }}</td>
{% for answer in example.answers %}<td class="answer">{{ answer.text }}<br><span class="dim">{{ answer.label }}</span></td>
{% endfor %}</tr>{% endfor %}</table>
</html>
"""


def write_report(results: dict[str, Any], rows: Sequence[Row], page: Path) -> None:
    """Write the page, self-contained, and the plots as PNG beside it.

    Args:
        results: What `evaluate` returned.
        rows: Every row; the first few of each cell are shown.
        page: Where the page goes.
    """
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(TEMPLATE)
    blocks = [_block(results, suite, judge, page.parent) for suite, judge in _judged(results)]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(
        template.render(results=results, blocks=blocks, examples=_examples(rows, list(results["arms"]))),
        encoding="utf-8",
    )


def _judged(results: dict[str, Any]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["suite"], row["judge"]) for row in results["pooled"]))


def _block(results: dict[str, Any], suite: str, judge: str, folder: Path) -> dict[str, Any]:
    drawn = {"scatter": plots.scatter(results, suite, judge)}
    for harmful in (True, False):
        if any(row["suite"] == suite and row["harmful"] == harmful for row in results["cells"]):
            name = f"cells-{'harmful' if harmful else 'harmless'}"
            drawn[name] = plots.heatmap(results, suite, judge, harmful=harmful)
    return {
        "suite": suite,
        "judge": judge,
        "card": results["suites"][suite],
        "lines": table_lines(results, suite, judge),
        "plots": [
            {"title": name, "source": _saved(figure, folder / f"{suite}-{judge}-{name}.png")}
            for name, figure in drawn.items()
        ],
    }


def table_lines(results: dict[str, Any], suite: str, judge: str) -> list[dict[str, str]]:
    """Return the pooled shares of every arm as text, for tables."""
    pooled = [row for row in results["pooled"] if row["suite"] == suite and row["judge"] == judge]
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in pooled):
        harmful, harmless = (_pooled_row(pooled, arm, harmful=wanted) for wanted in (True, False))
        unread = sum(row["unread"]["hits"] for row in (harmful, harmless) if row)
        lines.append(
            {
                "arm": arm,
                "unsafe": percent(harmful.get("unsafe")),
                "shown": percent(harmful.get("useful")),
                "refused": percent(harmless.get("refused")),
                "right": percent(harmless.get("useful")),
                "unread": str(unread),
                "seconds": f"{(harmful or harmless)['seconds_each']:.2f}",
            }
        )
    return lines


def _pooled_row(pooled: Sequence[dict[str, Any]], arm: str, *, harmful: bool) -> dict[str, Any]:
    return next((row for row in pooled if row["arm"] == arm and row["harmful"] == harmful), {})


def percent(share: dict[str, Any] | None) -> str:
    """Format a share as `12.3 % [10, 15]`, with `-` for none."""
    if share is None:
        return "-"
    low, high = share["ci95"]
    return f"{100 * share['value']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _saved(figure: Figure, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _examples(rows: Sequence[Row], arms: Sequence[str]) -> list[dict[str, Any]]:
    """Return a few requests of every cell with each arm's answer."""
    judge, seed = rows[0].judge, rows[0].seed
    first = [row for row in rows if row.judge == judge and row.seed == seed]
    answers = {(row.suite, row.item, row.arm): row for row in first}
    shown: dict[tuple[str, str, bool], list[Row]] = defaultdict(list)
    for row in first:
        group = shown[row.suite, row.cell, row.harmful]
        if row.arm == first[0].arm and len(group) < SHOWN_EACH:
            group.append(row)
    return [
        _example(row, [answers.get((row.suite, row.item, arm)) for arm in arms])
        for group in shown.values()
        for row in group
    ]


def _example(row: Row, answers: Sequence[Row | None]) -> dict[str, Any]:
    return {
        "harmful": row.harmful,
        "cell": row.cell,
        "text": row.text,
        "picture": _thumbnail(Path(row.picture)) if row.picture else None,
        "answers": [{"text": a.answer if a else "", "label": a.label if a else ""} for a in answers],
    }


def _thumbnail(path: Path) -> str | None:
    """Return a small copy of a picture as a data URI."""
    from PIL import Image

    if not path.is_file():
        return None
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((_THUMB, _THUMB))
    buffer = BytesIO()
    small.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
