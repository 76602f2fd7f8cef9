"""The model card beside a rewriter's adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_vlmguard.verdict.records import Json


def adapter_card(facts: Json) -> str:
    """Return the card (Markdown) for what training and validation found."""
    recipe, data, metrics = facts["recipe"], facts["data"], facts.get("metrics", {})
    rows = "\n".join(f"| {name} | {_value(value)} |" for name, value in _flat(metrics))
    dropped = ", ".join(f"{count} because {why}" for why, count in data.get("dropped", {}).items()) or "none"
    return f"""\
---
license: mit
library_name: peft
base_model: {facts["base"]}
tags: [lora, prompt-rewriting, ai-safety, langchain-vlmguard]
---

# A reasoning rewriter for `{facts["base"]}`

A LoRA adapter (rank {recipe["rank"]}, alpha {recipe["alpha"]}) on the language layers; vision tower and projector are untouched.
With it the model names threats in words, picture and both together, says what the person wants, and writes the prompt that an
unchanged model can answer safely (VLMGuard-R1, arXiv 2504.12661). It is used for the rewriting call alone:

```python
rewriter = ReasoningRewriter.from_adapter(model, "path/to/this/folder")
```

It belongs to the weights whose embedding table has the hash `{facts["base_hash"]}`, and answers in the `{facts["form"]}` form.

## Data

{facts["trained_on"]} items for training; synthesis kept {data.get("kept", "?")} of {data.get("items", "?")}, dropped: {dropped}.
By action: {data.get("kept_by_action", {})}.

## Training

Loss on the answer's tokens alone. {recipe["epochs"]} epochs, batch {recipe["batch"] * recipe["accumulate"]}, learning rate
{recipe["learning_rate"]} (cosine, warm-up {recipe["warmup"]:.0%}), seed {recipe["seed"]}; {facts["seconds"]} s with
{facts["threads"]} threads on {facts["date"]}; {", ".join(f"{name} {number}" for name, number in facts["versions"].items())}.

## Validation

Items of the same synthesis that training did not see; greedy, no retry.

| metric | value |
| --- | --- |
{rows}

Benign faithfulness is the share of harmless prompts that go on unchanged. These figures say nothing about other models or data.
"""


def _flat(metrics: Json, prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in metrics.items():
        flat += _flat(value, f"{prefix}{name} ") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return flat


def _value(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
