"""The table of carriers: everything that can hold content in an agent, and what the guard's own code says it does about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_vlmguard.content import carriers
from langchain_vlmguard.content.spellings import FILES, PICTURES
from vlmguard_lab.bench import page

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from langchain_vlmguard.content.carriers import Treatment

PAGE = page.DOCS / "agent_rules.md"

HOSTED = (
    "server_tool_use",
    "web_search_tool_result",
    "code_execution_tool_result",
    "mcp_tool_use",
    "mcp_tool_result",
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "computer_call",
    "local_shell_call",
    "mcp_call",
    "mcp_list_tools",
    "mcp_approval_request",
    "executable_code",
    "code_execution_result",
    "server_tool_call",
    "server_tool_result",
    "search_result",
)
"""Blocks of tools that providers run, as they send them."""

KINDS = (
    "text",
    "output_text",
    "brand_new",
    *sorted(carriers.THOUGHTS - carriers.ENCRYPTED),
    *HOSTED,
    *sorted(carriers.CALLS),
    *sorted(carriers.ENCRYPTED),
    *sorted(PICTURES),
    *sorted(FILES),
    *sorted(carriers.SOUNDS_AND_FILMS),
)
"""Types of content blocks; `brand_new` stands for every other one."""

FIELDS = (
    ("additional_kwargs", "reasoning_content"),
    ("additional_kwargs", "refusal"),
    ("additional_kwargs", "parsed"),
    ("additional_kwargs", "brand_new"),
    ("additional_kwargs", "tool_calls"),
    ("additional_kwargs", "function_call"),
    ("additional_kwargs", "audio"),
    ("additional_kwargs", "__gemini_function_call_thought_signatures__"),
    ("response_metadata", "logprobs"),
    ("response_metadata", "citations"),
    ("response_metadata", "grounding_metadata"),
    ("response_metadata", "model_name"),
    ("response_metadata", "brand_new"),
    ("response_metadata", "headers"),
    ("response_metadata", "verdict"),
)
"""Keys beside the content of answers; `brand_new` stands for every other one."""

ELSEWHERE = (
    ("`tool_calls`", "judged by itself; a call of structured output as words of the answer"),
    ("`invalid_tool_calls`, `tool_call_chunks`", "judged, arguments and error"),
    ("`encrypted_content`, `encrypted_index`, `encrypted_stdout` of any block", carriers.TREATMENTS["encrypted"]),
    ("`signature`, `id`, `status` and other marks of any block", carriers.TREATMENTS["prose"]),
    ("`name` of an answer", carriers.TREATMENTS["prose"]),
    ("a request's content", "judged; a part that cannot be read decides the turn, and is named in `unjudged`"),
    ("a request's `name`, `additional_kwargs`, `response_metadata`", carriers.TREATMENTS["mark"]),
    ("a tool result's content", "judged; a part that cannot be read decides about it, and is named in `unjudged`"),
    ("a tool result's `artifact`", "pictures are judged; that nobody judged its words is named in `unjudged`"),
    ("an exception of a tool", "judged"),
    ("`Command.update`: messages", "judged, each by itself"),
    (
        "`Command.update`: other keys, and what `Send` takes along",
        "judged where they say something new; gone with a blocked message",
    ),
    ("`Command.goto`", "not judged: names of nodes"),
)
"""Carriers beside answers' blocks and fields."""


def run() -> None:
    """Write the table on its page."""
    page.place(PAGE, {"carriers": table()})


def block_treatment(kind: str) -> Treatment:
    """Return what is done about a block of a type that holds some words, and repeats no call."""
    return carriers.treatment({"type": kind, **({} if kind in carriers.CALLS else {"text": "some words"})}, _A_CALL)


_A_CALL = frozenset({carriers.call_key(None, {})})


def table() -> str:
    """Return the table."""
    return page.table(("carrier", "what is done about it"), _rows())


def _rows() -> Iterator[tuple[str, str]]:
    for treatment, said in carriers.TREATMENTS.items():
        kinds = [kind for kind in KINDS if block_treatment(kind) == treatment]
        if kinds:
            yield f"blocks: {_listed(kinds)}", said
    for treatment, said in carriers.TREATMENTS.items():
        for field in ("additional_kwargs", "response_metadata"):
            keys = [
                key for where, key in FIELDS if where == field and carriers.field_treatment(field, key) == treatment
            ]
            if keys:
                yield f"`{field}`: {_listed(keys)}", said
    yield from ELSEWHERE


def _listed(names: Iterable[str]) -> str:
    return ", ".join("every other one" if name == "brand_new" else f"`{name}`" for name in names)
