"""Every arm by name, and targets from what a person writes."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from langchain_vlmguard.errors import EvaluationError
from vlmguard_lab.evaluation.arms.activations import CAPTION_ARMS, PEER_ARMS, READING_ARMS
from vlmguard_lab.evaluation.arms.base import ANSWER_TOKENS, Arm, Target
from vlmguard_lab.evaluation.arms.guards import GUARD_ARMS, rewriter_for
from vlmguard_lab.evaluation.arms.prompts import PROMPT_ARMS

ARMS: MappingProxyType[str, Arm] = MappingProxyType(
    {arm.card.name: arm for arm in (*GUARD_ARMS, *PROMPT_ARMS, *CAPTION_ARMS, *READING_ARMS, *PEER_ARMS)}
)
"""Every arm."""


def arm_named(name: str) -> Arm:
    """Return an arm.

    Raises:
        EvaluationError: There is none of this name.
    """
    if name not in ARMS:
        msg = f"no arm {name!r}; there are {', '.join(ARMS)}"
        raise EvaluationError(msg)
    return ARMS[name]


def load_target(spec: str, *, max_tokens: int | None = None, adapter: str | None = None) -> Target:
    """Load what is defended.

    Args:
        spec: `"testbed"`, a local folder or a hub id of an image-text-to-text model, or `"api:<provider>:<model>"` for any chat
            model that `langchain.chat_models.init_chat_model` knows. A folder that `testbed.build` wrote is a testbed too, of
            another architecture; the shipped testbed's rewriter stands in front of it.
        max_tokens: Most tokens of an answer; 64 on the testbed, 256 elsewhere when `None`.
        adapter: Folder of a trained rewriter's adapter; the shipped one on the testbed when `None`.
    """
    if spec.startswith("api:"):
        from langchain.chat_models import init_chat_model

        name = spec.removeprefix("api:")
        return Target(name, init_chat_model(name, temperature=0, max_tokens=max_tokens or _LONG_ANSWER))
    from langchain_vlmguard.models.loading import load_vlm
    from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
    from vlmguard_lab.testbed.anchors import load_testbed_anchors

    testbed = spec == "testbed" or _built_as_testbed(Path(spec))
    loaded = load_vlm(spec, device="cpu" if testbed else None)
    tokens = max_tokens or (ANSWER_TOKENS if testbed else _LONG_ANSWER)
    chat = ChatSteeredVLM.from_loaded(loaded, steering=None, max_tokens=tokens, batch_size=64 if testbed else 8)
    if not testbed:
        return Target(spec, chat, loaded, adapter=adapter)
    shipped = spec == "testbed"
    return Target(
        spec if shipped else Path(spec).name,
        chat,
        loaded,
        load_testbed_anchors().split(0.75, seed=0)[0],
        adapter=adapter or (shipped_adapter() if shipped else None),
        rewriter=None if shipped or adapter else rewriter_for(load_target("testbed")),
        plain_words=True,
    )


def _built_as_testbed(folder: Path) -> bool:
    """Say whether a checkpoint's card is that of a testbed, of whatever architecture."""
    card = folder / "card.json"
    return card.is_file() and "recipe" in json.loads(card.read_text())


def shipped_adapter() -> str | None:
    """Return the name of the testbed's rewriter adapter, if the package carries one."""
    return "testbed" if (files("vlmguard_lab.testbed") / "rewriter").is_dir() else None


_LONG_ANSWER = 256
