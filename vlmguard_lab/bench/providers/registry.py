"""The providers, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain.agents.structured_output import ProviderStrategy

from vlmguard_lab.bench.providers import anthropic, bedrock, google, mistral, ollama, openai
from vlmguard_lab.bench.providers.talk import Provider

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_THOUGHTS = "its answers carry no thoughts"
_NO_SEARCH = "no hosted search"

PROVIDERS: Mapping[str, Provider] = {
    "openai-chat": Provider(
        openai.chat, openai.render_chat, openai.MARK, ProviderStrategy, leaves_out=f"{_NO_THOUGHTS}; {_NO_SEARCH}"
    ),
    "openai-responses": Provider(
        openai.responses, openai.render_responses, openai.MARK, ProviderStrategy, hosted=openai.SEARCH
    ),
    "anthropic": Provider(anthropic.model, anthropic.render, anthropic.MARK, ProviderStrategy, hosted=anthropic.SEARCH),
    "google-genai": Provider(
        google.model,
        google.render,
        google.MARK,
        leaves_out="the search's grounding comes without the search among the tools",
    ),
    "aws-converse": Provider(bedrock.model, bedrock.render, bedrock.MARK, leaves_out=_NO_SEARCH),
    "ollama": Provider(ollama.model, ollama.render, ollama.MARK, ProviderStrategy, leaves_out=_NO_SEARCH),
    "mistralai": Provider(mistral.model, mistral.render, mistral.MARK, leaves_out=f"{_NO_THOUGHTS}; {_NO_SEARCH}"),
}
