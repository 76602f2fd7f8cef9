"""Answers that follow a JSON Schema: the schema becomes a grammar, and the grammar rules tokens out while decoding.

llguidance does the work (the extra `structured`). Of the well-kept libraries it takes any fast tokenizer without a build per
vocabulary, computes a mask in tens of microseconds with nothing precompiled per schema, covers most of JSON Schema, and hangs
on neither torch nor a serving engine. outlines-core builds an automaton per schema and vocabulary first (seconds on a large
vocabulary), xgrammar brings its own kernels and compiles per schema, and lm-format-enforcer walks prefixes in Python.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.errors import StructuredOutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llguidance import LLTokenizer
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

MISSING = "answers that follow a schema need llguidance: pip install 'langchain-vlmguard[structured]'"
_SOMETHING = r"\S"
"""The pattern of any text that is not blank: it says nothing of a length."""

LARGEST = 2**53
"""The largest whole number that JSON parsers agree on."""


def json_grammar(schema: dict[str, object], *, max_tokens: int) -> str:
    """Return the llguidance grammar of a JSON Schema.

    Texts without a length, whole numbers without bounds and lists without one are bounded, because an answer that reaches
    `max_tokens` inside a value is not JSON.

    Raises:
        StructuredOutputError: The schema has something that cannot be enforced, or llguidance is not installed.
    """
    try:
        from llguidance import LLMatcher
    except ImportError as error:
        raise StructuredOutputError(MISSING) from error
    try:
        bounded = _bounded(schema, max(8, max_tokens // 8))
        grammar: str = LLMatcher.grammar_from_json_schema(json.dumps(bounded), overrides={"whitespace_flexible": False})
        problem = LLMatcher.validate_grammar(grammar)
    except ValueError as error:
        msg = f"the schema cannot be enforced: {error}"
        raise StructuredOutputError(msg) from error
    if problem:
        msg = f"the schema cannot be enforced: {problem}"
        raise StructuredOutputError(msg)
    return grammar


def call_grammar(tools: Sequence[dict[str, Any]], *, max_tokens: int, several: bool = False) -> str:
    """Return the grammar of one call (or a list of calls) of the given tools, `{"name": ..., "arguments": {...}}`."""
    definitions: dict[str, object] = {}
    calls = [_call_schema(tool["function"], definitions) for tool in tools]
    one: dict[str, object] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    schema: dict[str, object] = {"type": "array", "items": one, "minItems": 1, "maxItems": 8} if several else one
    return json_grammar({**schema, "$defs": definitions} if definitions else schema, max_tokens=max_tokens)


def grammar_tokenizer(tokenizer: PreTrainedTokenizerBase, vocabulary: int, ends: Iterable[int]) -> LLTokenizer:
    """Return llguidance's view of a tokenizer; takes up to a second, so keep it.

    Raises:
        StructuredOutputError: The tokenizer is not a fast one, or llguidance is not installed.
    """
    try:
        from llguidance import LLTokenizer
    except ImportError as error:
        raise StructuredOutputError(MISSING) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        msg = f"{type(tokenizer).__name__} cannot follow a grammar: only fast tokenizers can"
        raise StructuredOutputError(msg)
    written = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    return LLTokenizer(_as_written(written), n_vocab=vocabulary, eos_token=sorted(ends) or None)


class GrammarState:
    """Where one row stands in its grammar."""

    def __init__(self, tokenizer: LLTokenizer, grammar: str) -> None:
        """Start at the beginning."""
        from llguidance import LLMatcher

        self._matcher = LLMatcher(tokenizer, grammar)
        self._check()

    def masked(self, scores: Tensor) -> Tensor:
        """Return `(vocabulary,)` scores in which every token that the grammar rules out is minus infinity."""
        import numpy as np
        import torch

        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(scores)].astype(bool)
        mask = torch.zeros(len(scores), dtype=torch.bool)
        mask[: len(allowed)] = torch.from_numpy(allowed)
        return scores.masked_fill(~mask.to(scores.device), float("-inf"))

    def consume(self, token: int) -> bool:
        """Take a token and return whether the grammar is at its end."""
        self._matcher.consume_token(token)
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            msg = f"the grammar failed: {self._matcher.get_error()}"
            raise StructuredOutputError(msg)


def _as_written(tokenizer: dict[str, Any]) -> str:
    """Return a tokenizer that takes text as it stands.

    llguidance tokenizes what a grammar forces. A byte-level tokenizer that lower-cases its input, or puts a blank before it,
    would give tokens of another text there.
    """
    if (tokenizer.get("decoder") or {}).get("type") == "ByteLevel":
        tokenizer["normalizer"] = None
        splitters = [tokenizer.get("pre_tokenizer") or {}]
        for splitter in [*splitters, *splitters[0].get("pretokenizers", [])]:
            if "add_prefix_space" in splitter:
                splitter["add_prefix_space"] = False
    return json.dumps(tokenizer)


def _call_schema(function: dict[str, Any], definitions: dict[str, object]) -> dict[str, object]:
    parameters = dict(function.get("parameters") or {"type": "object", "properties": {}})
    definitions.update(parameters.pop("$defs", {}))
    parameters.setdefault("additionalProperties", False)
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _bounded(schema: object, length: int) -> object:
    if isinstance(schema, list):
        return [_bounded(one, length) for one in schema]
    if not isinstance(schema, dict):
        return schema
    literal = ("enum", "const", "default", "examples")
    bounded = {key: value if key in literal else _bounded(value, length) for key, value in schema.items()}
    kind = bounded.get("type")
    if kind == "object" and "properties" in bounded:
        bounded.setdefault("additionalProperties", False)
    if "enum" in bounded or "const" in bounded:
        return bounded
    if (
        kind == "string"
        and not {"format", "maxLength"} & bounded.keys()
        and bounded.get("pattern", _SOMETHING) == _SOMETHING
    ):
        bounded["maxLength"] = max(length, _number(bounded, "minLength"))
    elif kind == "integer":
        bounded.setdefault("maximum", LARGEST)
        bounded.setdefault("minimum", -LARGEST)
    elif kind == "array":
        bounded.setdefault("maxItems", max(8, _number(bounded, "minItems")))
    return bounded


def _number(schema: dict[str, object], name: str) -> int:
    value = schema.get(name)
    return value if isinstance(value, int) else 0
