"""What a server is told: `guard.yaml` and the environment, checked before anything starts."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ImportString, SecretStr, ValidationError, model_validator

from langchain_vlmguard.errors import ServingConfigError, extra
from langchain_vlmguard.serving.yaml_text import line_of, parsed
from langchain_vlmguard.verdict.limits import ReadLimits
from langchain_vlmguard.verdict.policy import SHORT_NAMES, GatePolicy, GuardPolicy, RewritePolicy
from langchain_vlmguard.verdict.rules import Rule

with extra("serve"):
    import yaml
    from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails

_URL = r"^https?://[^/?#\s]+(/[^?#\s]*)?$"
_LISTED = 24
"""Most fields that an error lists beside the one that was probably meant."""

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Listen(_Part):
    """Where the server listens."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes any free port."""


class Secret(_Part):
    """A secret: in the environment, or written down."""

    env: str | None = None
    """Name of the environment variable that holds it."""

    value: SecretStr | None = None

    @model_validator(mode="after")
    def _is_there(self) -> Self:
        if (self.env is None) == (self.value is None):
            msg = "give `env` (the name of an environment variable) or `value`, one of them"
            raise ValueError(msg)
        if self.env is not None and not os.environ.get(self.env):
            msg = f"the environment variable {self.env} is not set: set it before the server starts"
            raise ValueError(msg)
        if not self.text:
            msg = "the secret is empty"
            raise ValueError(msg)
        return self

    @property
    def text(self) -> str:
        """The secret itself."""
        return os.environ[self.env] if self.env is not None else self.value.get_secret_value() if self.value else ""


class ApiKey(_Part):
    """Somebody who may call, and what is different for them."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Stands in logs and metrics."""

    key: Secret
    policy: GuardPolicy | None = None
    """Used instead of the server's own."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    at_once: int | None = Field(default=None, ge=1)
    """Requests of this key that run or wait at the same time."""

    reviewer: bool = False
    """Whether this key may see what is held and decide about it."""


class Limits(_Part):
    """How much is taken on, and how long anything may take."""

    at_once: int = Field(default=16, ge=1)
    """Requests that run at the same time."""

    queue: int = Field(default=64, ge=0)
    """Requests that wait; one more gets 429."""

    seconds: float = Field(default=120.0, gt=0)
    """From the whole request to the whole answer, waiting included."""

    guardrail_seconds: float = Field(default=8.0, gt=0)
    """The same for the guardrail routes: shorter than what LiteLLM waits (10 s), or its fail-open option would decide."""

    body_bytes: int = Field(default=20_000_000, ge=1)
    """Of a request's body, unpacked."""

    body_seconds: float = Field(default=30.0, gt=0)
    """Most seconds in which a body has to come."""

    retry_after: int = Field(default=5, ge=1, le=60)
    """Seconds after which a client should try again."""


class KeepAlive(_Part):
    """What an event stream says while its answer is held."""

    form: Literal["comment", "chunk", "off"] = "comment"
    """`chunk` is an event with an empty delta, for clients that cannot read comments."""

    seconds: float = Field(default=10.0, gt=0)


class Drain(_Part):
    """How the server ends."""

    pause: float = Field(default=2.0, ge=0)
    """Seconds in which load balancers may see that the server is not ready; new work is refused already."""

    grace: float = Field(default=60.0, ge=0)
    """Seconds that running answers have to finish."""


class Local(_Part):
    """A model in this process: `ChatSteeredVLM`."""

    kind: Literal["local"] = "local"
    model: str = "testbed"
    """A folder, a hub id, or the name of a checkpoint that a package ships."""

    directions: str | None = None
    """A file of safety directions; the checkpoint's own if it has some."""

    max_tokens: int = Field(default=256, ge=1)
    """Of an answer, if the request does not say."""


class Upstream(_Part):
    """Any server that speaks OpenAI's chat completions: vLLM, Ollama, LiteLLM, a provider."""

    kind: Literal["upstream"]
    url: str = Field(pattern=_URL)
    """Up to and with `/v1`."""

    key: Secret | None = None
    models: list[str] = Field(min_length=1)
    """Names that callers may ask for; the first one is taken where a caller names none."""

    connect_seconds: float = Field(default=5.0, gt=0)
    answer_bytes: int = Field(default=16_000_000, ge=1)
    """Of an upstream answer, unpacked."""

    hosted_tools: bool = True
    """Whether callers may offer tools that the upstream runs itself. What such a tool reads is not seen here; the answer is."""


class AdapterRewriter(_Part):
    """The model in this process rewrites, by a trained adapter on it."""

    kind: Literal["adapter"]
    adapter: str = "testbed"


class ChatRewriter(_Part):
    """Any chat model rewrites."""

    kind: Literal["chat"]
    model: str
    """`provider:name`, as LangChain's `init_chat_model` takes it."""

    url: str | None = None
    """Of an OpenAI-compatible server; the provider's own otherwise."""

    key: Secret | None = None


class GateRewriter(_Part):
    """The gate of the model in this process judges turns; it never rewrites."""

    kind: Literal["gate"]


class Nobody(_Part):
    """No rewriter: gate and probe of the model in this process judge alone."""

    kind: Literal["none"]


class JudgeRewriter(_Part):
    """The `judge` judges requests, too, with their pictures if it takes them; nothing is rewritten."""

    kind: Literal["judge"]


class _Judge(_Part):
    url: str = Field(pattern=_URL)
    key: Secret | None = None
    seconds: float = Field(default=10.0, gt=0)
    pictures: bool = False
    """Whether it looks at pictures. If not, a request with pictures that it should judge does not go on."""


class Moderation(_Judge):
    """A moderation endpoint in OpenAI's form. `url` goes up to and with `/v1`."""

    kind: Literal["openai-moderation"]
    model: str | None = None


class DecisionModel(_Judge):
    """A decision model behind `/v1/systemone`. `url` goes up to and with `/v1`."""

    kind: Literal["systemone"]
    model: str | None = None
    question: str | None = Field(default=None, min_length=1)
    """What it is asked, as a question whose yes means harmful."""


class ChatModel(_Judge):
    """A chat model that says safe or unsafe. `url` goes up to and with `/v1`."""

    kind: Literal["openai-chat"]
    model: str
    question: str | None = Field(default=None, min_length=1)


class OtherGuardrail(_Judge):
    """Another guard that speaks LiteLLM's generic guardrail API. `url` is what LiteLLM calls `api_base`."""

    kind: Literal["litellm"]


class Reviews(_Part):
    """Where what waits for a person is kept."""

    path: Path = Path("vlmguard-reviews.sqlite")
    """A SQLite file, of one server."""

    address: Secret | None = None
    """Of a Postgres database in place of the file (extra `postgres`); several servers may share it."""

    keep_hours: float = Field(default=72.0, gt=0)
    """What nobody decided about by then is deleted."""

    @model_validator(mode="before")
    @classmethod
    def _by_address(cls, given: object) -> object:
        return {"address": {"value": given}} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _is_postgres(self) -> Self:
        if self.address is not None and not self.address.text.startswith(("postgresql://", "postgres://")):
            msg = "an address begins with postgresql://; for a SQLite file give {path: ...}"
            raise ValueError(msg)
        return self


Backend = Annotated[Local | Upstream, Field(discriminator="kind")]
RewriterConfig = Annotated[
    AdapterRewriter | ChatRewriter | GateRewriter | JudgeRewriter | Nobody, Field(discriminator="kind")
]
JudgeConfig = Annotated[Moderation | DecisionModel | ChatModel | OtherGuardrail, Field(discriminator="kind")]


class ServeConfig(BaseSettings):
    """Everything that a server is told. Without any of it: the testbed on loopback, for a first try.

    The environment goes before the file: `VLMGUARD_SERVE_LISTEN__PORT=9000`.

    ??? example "A guard before a local Ollama"

        ```yaml
        backend: {kind: upstream, url: "http://127.0.0.1:11434/v1", models: [gemma3]}
        rewriter: {kind: chat, model: "openai:gemma3", url: "http://127.0.0.1:11434/v1"}
        keys:
          - {name: alice, key: {env: ALICE_KEY}, requests_per_minute: 60}
        ```
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="VLMGUARD_SERVE_", env_nested_delimiter="__"
    )

    listen: Listen = Listen()
    keys: list[ApiKey] = Field(default_factory=list)
    """Who may call. Nobody has to say who they are while it is empty, which is allowed on loopback alone."""

    limits: Limits = Limits()
    keep_alive: KeepAlive = KeepAlive()
    drain: Drain = Drain()
    backend: Backend = Local()
    rewriter: RewriterConfig | None = None
    """Who judges and rewrites; the testbed's own adapter for the testbed."""

    judge: JudgeConfig | None = None
    """Judges answers and the words in pictures, in place of what the guard's own models would judge; requests, too, with
    `rewriter: {kind: judge}`, and before an upstream without a `rewriter`."""

    guard: ImportString[object] | None = None
    """A whole `Guard` of yours, `module:object`, in place of `rewriter` and `policy`."""

    policy: GuardPolicy = Field(default_factory=GuardPolicy)
    reviews: Reviews = Reviews()
    verdict: Literal["short", "full", "none"] = "short"
    """How much of a verdict answers carry: `short` has no words of any model, `full` is the whole record."""

    audit: Path | None = None
    """File of the audit log: a row for each check, without content (`vlmguard audit`). None is kept without it."""

    telemetry: bool = False
    """Report requests and checks to OpenTelemetry's global providers (extra `otel`), without any content."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the interface's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the environment before the file."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [key.name for key in self.keys]
        if len({*names}) < len(names):
            msg = "two keys have the same name: names stand in logs and metrics, give each its own"
            raise ValueError(msg)
        if not self.keys and self.listen.host not in LOOPBACK:
            msg = f"without `keys` everybody who reaches {self.listen.host} may call: add keys, or listen on 127.0.0.1"
            raise ValueError(msg)
        beside = self.rewriter is not None or self.judge is not None or self.policy != GuardPolicy()
        if self.guard is not None and beside:
            msg = "`guard` brings its own rewriter, judge and policy: leave `rewriter`, `judge` and `policy` out"
            raise ValueError(msg)
        needs_local = isinstance(self.rewriter, AdapterRewriter | GateRewriter | Nobody)
        nobody = self.rewriter is None and self.judge is None and self.guard is None
        if isinstance(self.backend, Upstream) and (needs_local or nobody):
            msg = "an upstream model has no gate of ours: give `rewriter: {kind: chat, model: ...}`, a `judge`, or a `guard`"
            raise ValueError(msg)
        if isinstance(self.rewriter, JudgeRewriter) and self.judge is None:
            msg = "`rewriter: {kind: judge}` needs a `judge`"
            raise ValueError(msg)
        ruled = any(policy.rules for policy in (self.policy, *(key.policy for key in self.keys)) if policy is not None)
        if ruled and self.guard is None and not isinstance(self.rewriter, ChatRewriter):
            msg = "rules in plain words need somebody who can be told them: give `rewriter: {kind: chat, model: ...}`"
            raise ValueError(msg)
        return self


def read_config(path: str | Path | None = None) -> ServeConfig:
    """Read a config file; the defaults, and the environment, if there is none.

    Raises:
        ServingConfigError: The file or a field of it cannot be used; the message names both and says what to do.
    """
    where = "the environment" if path is None else str(path)
    text = "" if path is None else _text(Path(path))
    try:
        return ServeConfig.model_validate(_mapping(where, text))
    except ValidationError as error:
        raise ServingConfigError(where, _lines(error.errors(include_url=False, include_input=False), text)) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ServingConfigError(str(path), ["there is no such file: name one, or leave --config out"]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ServingConfigError(str(path), [f"the file cannot be read ({type(error).__name__})"]) from error


def _mapping(where: str, text: str) -> dict[str, object]:
    try:
        given = parsed(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        raise ServingConfigError(where, [f"{line}this is not YAML: {getattr(error, 'problem', error)}"]) from error
    if not isinstance(given, dict | None):
        raise ServingConfigError(where, ["the file must hold fields, such as `listen:` and `backend:`"])
    return {str(key): value for key, value in (given or {}).items()}


def _lines(errors: Sequence[ErrorDetails], text: str) -> list[str]:
    """Say of each error on which line of the file and about which field it is, and what is right there."""
    numbers = [line_of(text, error["loc"]) for error in errors]
    at = [f"line {number}: " if number is not None else "" for number in numbers]
    return [f"{line}{_place(error['loc'])}: {_remedy(error)}" for line, error in zip(at, errors, strict=True)]


def _place(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in loc).removeprefix(".") or "the whole"


def _remedy(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        known = _fields_at(error["loc"][:-1])
        near = get_close_matches(str(error["loc"][-1]), known, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        listed = known and (len(known) <= _LISTED or not near)
        return "there is no such field" + (f"; there are {', '.join(known)}" if listed else "") + meant
    return str(error["msg"]).removeprefix("Value error, ")


def _fields_at(loc: tuple[int | str, ...]) -> list[str]:
    parts: dict[str, type[BaseModel]] = {
        "listen": Listen, "keys": ApiKey, "limits": Limits, "keep_alive": KeepAlive, "drain": Drain,
        "reviews": Reviews, "local": Local, "upstream": Upstream, "policy": GuardPolicy, "key": Secret, "address": Secret,
        "rules": Rule, "gate": GatePolicy, "rewriting": RewritePolicy, "reading": ReadLimits,
    }  # fmt: skip
    named = [one for one in loc if isinstance(one, str)]
    place: type[BaseModel] | None = parts.get(named[-1]) if named else ServeConfig
    short = [*SHORT_NAMES] if place is GuardPolicy else []
    return [*place.model_fields, *short] if place is not None else []
