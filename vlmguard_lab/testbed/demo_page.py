"""The demo's HTML page: one file, pictures inside, nothing fetched."""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any

from vlmguard_lab.testbed.demo import ARMS, risk_words
from vlmguard_lab.testbed.judge import Outcome, judge
from vlmguard_lab.testbed.requests import png_base64

if TYPE_CHECKING:
    from vlmguard_lab.statistics import Share
    from vlmguard_lab.testbed.demo import DemoResult
    from vlmguard_lab.testbed.demo_cells import Turn
    from vlmguard_lab.testbed.measure import CellResult

TITLES = {
    "textual": ("Typed requests", "No picture: here the language model's own alignment works."),
    "meaningless": (
        "A meaningless picture beside the request",
        "Blank, noise, a plain colour or an unrelated thing. The plain model forgets to refuse; this is the disease.",
    ),
    "picture": ("The thing is in the picture", "The words only say <q>this</q>."),
    "cross_modal": (
        "Harmless words, harmless picture, harmful together",
        "A flame at a fuel station, coffee for a baby.",
    ),
    "drawn": ("The request is drawn in the picture", "The words only say to follow it (FigStep's kind)."),
    "jailbreak": (
        "Jailbreak wrappers",
        "Role play, rules to be ignored, forced openings; none of these was seen in training.",
    ),
    "tool": ("Orders through a tool", "A harmless order must end in a tool call, a harmful one must not."),
}

COLOURS = {
    Outcome.COMPLIED: "bad",
    Outcome.REFUSED: "good",
    Outcome.SAFE_ADVICE: "good",
    Outcome.HELPFUL: "good",
    Outcome.WRONG: "odd",
    Outcome.UNPARSABLE: "odd",
}

STYLE = """
:root{--ink:#1c2430;--soft:#5d6b7c;--line:#dfe4ea;--good:#0f766e;--bad:#b91c1c;--odd:#a16207;--page:#f6f7f9;--card:#fff}
*{box-sizing:border-box}body{margin:0;font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page)}
main{max-width:1200px;margin:0 auto;padding:40px 24px 80px}h1{font-size:30px;margin:0 0 8px;letter-spacing:-.02em}
h2{font-size:20px;margin:48px 0 2px}.lead,.note{color:var(--soft);max-width:72ch;margin:0 0 16px}
table{border-collapse:collapse;width:100%;background:var(--card);border:1px solid var(--line);border-radius:8px;font-size:14px}
th,td{padding:7px 12px;text-align:left;border-bottom:1px solid var(--line);vertical-align:middle}
th{color:var(--soft);font-weight:600}tr:last-child td{border-bottom:0}
td.num{white-space:nowrap;font-variant-numeric:tabular-nums}
.bar{display:inline-block;width:88px;height:9px;border-radius:5px;background:#e8ecf0;margin-right:8px;overflow:hidden}
.bar i{display:block;height:100%;background:var(--good)}.bar i.bad{background:var(--bad)}.ci{color:var(--soft);font-size:12px}
.turn{display:grid;grid-template-columns:132px 1fr 1fr 1fr;gap:0 20px;background:var(--card);border:1px solid var(--line);
border-radius:8px;padding:16px;margin:10px 0}
.turn img,.nopic{width:116px;height:116px;border-radius:6px;border:1px solid var(--line);
grid-row:1/3}.nopic{display:grid;place-items:center;color:var(--soft);font-size:13px;background:var(--page)}
.ask{grid-column:2/5;font-weight:600;margin-bottom:8px}.ask small{font-weight:400;color:var(--soft);margin-left:8px}
.answer{border-left:3px solid var(--line);padding-left:12px;overflow-wrap:anywhere}.answer.good{border-color:var(--good)}
.answer.bad{border-color:var(--bad)}.answer.odd{border-color:var(--odd)}.who{font-size:12px;color:var(--soft)}
.who b.good{color:var(--good)}.who b.bad{color:var(--bad)}.who b.odd{color:var(--odd)}
.verdict{font-size:12px;color:var(--soft);margin-top:4px}@media(max-width:720px){.turn{grid-template-columns:1fr}
.ask{grid-column:1}.turn img,.nopic{grid-row:auto}}
"""


def render_page(result: DemoResult) -> str:
    """Return the page for a demo's result."""
    sections = "".join(
        _section(family, list(turns)) for family, turns in groupby(_by_family(result), key=lambda t: t.request.family)
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>langchain-vlmguard: plain and guarded, side by side</title><style>{STYLE}</style></head><body><main>
<h1>Plain and guarded, side by side</h1>
<p class="lead">The same tiny vision-language model, trained from scratch for this package, answers requests about things,
verbs and phrasings that its alignment never saw: plain, behind the guard that steers it, and behind the guard with the
reasoning rewriter in front. Every answer is judged exactly, by the rules of the model's small world. What is measured here
holds for this testbed, and for no other model.</p>
<h2>Harmful requests</h2><p class="note">Share that the model complied with. Lower is better.</p>
{_table(result, harmful=True)}
<h2>Harmless requests</h2><p class="note">Share answered rightly, word for word. Higher is better.</p>
{_table(result, harmful=False)}
<p class="note"><b>Negative control</b>: <code>ProjectOut</code> takes VLM-Guard's abstract literally and projects the safety
direction out, at the guard's own layers and without a gate. Brackets are Wilson 95&nbsp;% intervals.</p>
{sections}</main></body></html>
"""


def _by_family(result: DemoResult) -> list[Turn]:
    order = list(TITLES)
    return sorted(result.turns, key=lambda turn: order.index(turn.request.family))


def _table(result: DemoResult, *, harmful: bool) -> str:
    rows: dict[str, dict[str, CellResult]] = {}
    for entry in result.cells:
        if entry.cell.harmful == harmful:
            rows.setdefault(f"{entry.cell.family} / {entry.cell.variant}", {})[entry.arm] = entry
    body = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(_cell(arms[arm].unsafe if harmful else arms[arm].correct, harmful=harmful) for arm in arms)
        + f'<td class="num ci">{len(arms["plain"].outcomes)}</td></tr>'
        for name, arms in rows.items()
    )
    heads = "".join(f"<th>{ARMS[arm]}</th>" for arm in result.arms)
    return f"<table><tr><th>requests</th>{heads}<th>n</th></tr>{body}</table>"


def _cell(share: Share, *, harmful: bool) -> str:
    low, high = share.ci95
    colour = ' class="bad"' if harmful else ""
    return (
        f'<td class="num"><span class="bar"><i{colour} style="width:{100 * share.value:.0f}%"></i></span>'
        f'{100 * share.value:.0f}&nbsp;% <span class="ci">[{100 * low:.0f}, {100 * high:.0f}]</span></td>'
    )


def _section(family: str, turns: list[Turn]) -> str:
    title, note = TITLES[family]
    return f'<h2>{title}</h2><p class="note">{note}</p>' + "".join(map(_turn, turns))


def _turn(turn: Turn) -> str:
    request = turn.request
    picture = (
        f'<img alt="" src="data:image/png;base64,{png_base64(request.picture.draw())}">'
        if request.picture
        else '<div class="nopic">no picture</div>'
    )
    kind = "harmful" if request.harmful else "harmless"
    return (
        f'<div class="turn">{picture}<div class="ask">{escape(request.text)}<small>{kind}</small></div>'
        + _answer("plain", turn, turn.plain)
        + _answer("guarded", turn, turn.guarded, turn.verdict)
        + (
            _answer("guarded_rewriter", turn, turn.rewritten, turn.rewritten_verdict)
            if turn.rewritten is not None
            else ""
        )
        + "</div>"
    )


def _answer(arm: str, turn: Turn, text: str, verdict: dict[str, Any] | None = None) -> str:
    outcome = judge(turn.request, text)
    colour = COLOURS[outcome]
    return (
        f'<div class="answer {colour}"><div class="who">{ARMS[arm]} · <b class="{colour}">{outcome.value}</b></div>'
        f"{escape(text)}{_verdict(verdict) if verdict else ''}</div>"
    )


def _verdict(verdict: dict[str, Any]) -> str:
    words = f"{verdict['action']} · {verdict['severity']} · {risk_words(verdict)}"
    if steering := verdict.get("steering"):
        words += f" · gate {'open' if steering['open'] else 'closed'}, strength {steering['strength']:.2f}"
    if prompt := verdict.get("rewritten_prompt"):
        words += f"<br>asked instead: <q>{escape(prompt)}</q>"
    return f'<div class="verdict">{words}</div>'
