"""A policy in sentences: what will happen, for whoever has to answer for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_vlmguard.verdict.hazards import title_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_vlmguard.verdict.limits import ReadLimits
    from langchain_vlmguard.verdict.policy import GuardPolicy

_DONE = {
    "allow": "goes on",
    "keep": "is let out",
    "note": "goes on, and the verdict lists what was not read",
    "review": "waits for a person",
    "refuse": "is refused",
}
_WHEN = {
    "always": "The rewriter reads every turn before the model does.",
    "adaptive": "The rewriter reads a turn unless the model's gate stays clearly closed; without a gate, it reads every turn.",
    "answer_first": "The model answers first, and the rewriter reads the turn only if that answer is not clearly safe.",
    "never": "No rewriter reads turns: gate, probe and judges decide alone.",
}
_MEGA = 1_000_000


def explain(policy: GuardPolicy) -> list[str]:
    r"""Return what a policy does, a sentence or two for each subject.

    ??? example

        ```python
        print("\n".join(explain(GuardPolicy(on_controversial="review"))))
        ```
    """
    return [*_requests(policy), *_rules(policy), *_pictures(policy), *_answers(policy), *_failures(policy)]


def _requests(policy: GuardPolicy) -> Iterator[str]:
    yield _WHEN[policy.rewriting.when]
    yield (
        f"A turn is controversial from a risk of {policy.controversial_at:g} and unsafe from {policy.unsafe_at:g}. "
        f"Where the rewriter would leave it as it is, a controversial turn {_DONE[policy.on_controversial]}, and an unsafe one "
        f"{_DONE[policy.on_unsafe]}."
    )
    if policy.enabled_hazards is not None:
        named = ", ".join(sorted(title_of(hazard) for hazard in policy.enabled_hazards)) or "none"
        yield f"Only these hazards may decide something: {named}. Others are recorded."
    for hazard, action in sorted(policy.on_hazard.items()):
        yield f"Whatever is found to be about {title_of(hazard)} {_at_least(action)}."


def _rules(policy: GuardPolicy) -> Iterator[str]:
    for rule in policy.rules:
        off = "" if policy.counts(rule.id) else " It is off: enabled_hazards does not list it."
        yield f"Rule {rule.id}: “{rule.text}” What breaks it {_at_least(rule.on)}.{off}"
    if policy.rules:
        yield (
            "Rules are told to a rewriter that is a chat model. A gate, a probe, a classifier and a moderation endpoint cannot "
            "judge them."
        )


def _pictures(policy: GuardPolicy) -> Iterator[str]:
    yield from _read(policy.reading)
    yield f"A part that cannot be read, or is over a limit: the turn {_DONE[policy.on_unreadable]}."
    yield (
        "With an evidence reader, words found in a picture are judged as if somebody had typed them; if they are unsafe, the "
        f"turn {_DONE[policy.on_hidden_request]}. Text that is seen and cannot be read: the turn {_DONE[policy.on_unread_text]}."
    )
    for label, found in sorted(policy.picture_labels.items()):
        what = f"A picture that a classifier calls {label!r} from {found.at:g} shows {title_of(found.hazard)}"
        yield f"{what}: the turn {_DONE[found.action]}."


def _read(limits: ReadLimits) -> Iterator[str]:
    image = limits.image
    yield (
        f"A turn may hold {limits.max_images} pictures of {image.max_bytes / _MEGA:g} MB and {image.max_pixels / _MEGA:g} "
        f"million pixels each, and {limits.max_text_chars:,} characters."
    )
    hosts = ", ".join(sorted(limits.hosts))
    yield (
        f"Pictures are fetched from {hosts} alone."
        if hosts
        else "Pictures by address are not fetched: send their bytes."
    )
    pdf = limits.pdf
    yield f"PDFs are read up to {pdf.max_pages} pages." if pdf.read else "PDFs are not read."


def _answers(policy: GuardPolicy) -> Iterator[str]:
    if policy.withholds:
        rewritten = policy.gate.on_open_rewritten or policy.gate.on_open
        yield (
            f"An answer given while the model's gate was open {_DONE[policy.gate.on_open]}; one to a rewritten prompt "
            f"{_DONE[rewritten]}."
        )
    which = (
        "Every answer is judged"
        if policy.rewriting.judge_answers == "always"
        else "Answers to turns that no gate cleared are judged"
    )
    yield f"{which} before it leaves, if the guard has a judge of answers; an unsafe one {_DONE[policy.on_unsafe_answer]}."


def _failures(policy: GuardPolicy) -> Iterator[str]:
    yield f"If the rewriter, a judge or the model fails, the turn {_DONE[policy.on_error]}. Nothing goes on unjudged."
    sample = policy.refusal.format(about=" (privacy)", safe_way=policy.safe_way)
    yield f"A refusal reads, for example: “{sample}”"


def _at_least(action: str) -> str:
    return "is left to the rewriter" if action == "allow" else _DONE[action]
