"""How answers are decoded: fields of the chat model, each of which a single call may override."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, field_validator

from langchain_vlmguard.models.requests import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping


class DecodingOptions(BaseModel):
    """Options of `ChatSteeredVLM` and of its calls."""

    max_tokens: int = Field(default=256, ge=1)
    """Most new tokens an answer may have."""

    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""

    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    seed: int | None = None
    """Makes sampling repeatable, whoever else the model serves meanwhile."""

    n: int = Field(default=1, ge=1)
    """Answers to one prompt, all of them in `generate(...).generations`; the first alone from `invoke`. Streams give one."""

    stop: list[str] | None = None
    """Texts that end an answer; they may span tokens."""

    logprobs: bool = False
    """Report log-probabilities in `response_metadata["logprobs"]`, in OpenAI's form."""

    top_logprobs: int | None = Field(default=None, ge=0)
    timeout: float | None = Field(default=None, gt=0)
    """Seconds that an answer may take, waiting included; then `GenerationTimeoutError`."""

    adapter: str | None = None
    """The LoRA adapter that answers are given with, one of `ChatSteeredVLM.adapters`."""

    @field_validator("stop", mode="before")
    @classmethod
    def _accept_one_stop(cls, given: object) -> object:
        return [given] if isinstance(given, str) else given

    def for_call(self, stop: list[str] | None, given: Mapping[str, object]) -> DecodingOptions:
        """Return these options with a call's own in their place; `None` leaves those alone that cannot be off.

        Raises:
            pydantic.ValidationError: A value cannot be used.
        """
        fields = DecodingOptions.model_fields
        own = {name: getattr(self, name) for name in fields}
        called = {name: given[name] for name in fields if name in given}
        called = {name: value for name, value in called.items() if value is not None or fields[name].default is None}
        return DecodingOptions.model_validate({**own, **called, "stop": stop or self.stop})

    def settings(self, *, grammar: str | None, markers: bool, until_gate: bool) -> Settings:
        """Return the settings of one row.

        Args:
            grammar: An llguidance grammar that the answer must follow.
            markers: Whether the special tokens around tool calls stay in the text.
            until_gate: Whether the row ends after its first token if its gate opens.
        """
        return Settings(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stop=tuple(self.stop or ()),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            grammar=grammar,
            markers=markers,
            adapter=self.adapter,
            until_gate=until_gate,
            timeout=self.timeout,
        )
