"""The plugin of vLLM: `register` runs in every process of an engine and puts our steps around vLLM's own.

Only what an engine with `additional_config["vlmguard"]` runs is changed. Whatever goes wrong stops the start or ends the row with
an error; nothing falls back to a plain row.
"""

from __future__ import annotations

import os
from functools import wraps
from typing import TYPE_CHECKING, Protocol, cast

from langchain_vlmguard.errors import EngineRefusedError, RowSettingsError
from langchain_vlmguard.vllm.checks import EngineOptions, check_engine
from langchain_vlmguard.vllm.settings import KEY, OP_VERSION, RowSettings, settings_of
from langchain_vlmguard.vllm.stamps import Stamp, fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from langchain_vlmguard.vllm.rows import Rows

_MARK = "_vlmguard"
"""Attribute under which our state hangs on vLLM's objects."""

_REFUSED = "_vlmguard_refused"
"""Attribute of a request that must not be answered, with the reason."""


class _Sampling(Protocol):
    extra_args: dict[str, object] | None


class _Request(Protocol):
    request_id: str
    sampling_params: _Sampling | None
    cache_salt: str | None
    num_prompt_tokens: int


class _Scheduled(Protocol):
    num_scheduled_tokens: dict[str, int]
    finished_req_ids: set[str]


class _Output(Protocol):
    request_id: str
    new_token_ids: list[int]
    new_logprobs: object
    new_prompt_logprobs_tensors: object
    finish_reason: object
    kv_transfer_params: dict[str, object] | None


class _Outputs(Protocol):
    outputs: list[_Output]


def register() -> None:
    """Install the plugin in this process; called by vLLM, any number of times."""
    from vllm.v1.core.kv_cache_coordinator import KVCacheCoordinator
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner
    from vllm.v1.worker.worker_base import WorkerBase

    if hasattr(EngineCore, _MARK):
        return
    setattr(EngineCore, _MARK, OP_VERSION)
    _wrap(EngineCore, "preprocess_add_request", _admit)
    _wrap(Scheduler, "update_from_output", _release)
    _wrap(KVCacheCoordinator, "cache_blocks", _cache)
    for runner in (GPUModelRunner, *_subclasses(GPUModelRunner)):
        if "load_model" in vars(runner):
            _wrap(runner, "load_model", _load)
    _wrap(GPUModelRunner, "_prepare_inputs", _prepare)
    _wrap(GPUModelRunner, "execute_model", _execute)
    _wrap(GPUModelRunner, "sample_tokens", _stamped)
    WorkerBase.vlmguard_report = _report


def _wrap(owner: type, name: str, step: Callable[..., object]) -> None:
    """Let a step of ours run in the place of a method; it is given the method first.

    Raises:
        EngineRefusedError: This version of vLLM has no such method.
    """
    plain = getattr(owner, name, None)
    if plain is None:
        msg = f"this vLLM has no {owner.__name__}.{name}: the plugin was written for 0.32 and 0.33"
        raise EngineRefusedError(msg)

    @wraps(plain)
    def method(self: object, *given: object, **named: object) -> object:
        return step(plain, self, *given, **named)

    setattr(owner, name, method)


def _subclasses(runner: type) -> Sequence[type]:
    """Return the runners of other devices that load models in their own way."""
    from vllm.v1.worker import cpu_model_runner

    return [
        one
        for one in vars(cpu_model_runner).values()
        if isinstance(one, type) and issubclass(one, runner) and one is not runner
    ]


def _options(config: object) -> EngineOptions | None:
    return EngineOptions.read(getattr(config, "additional_config", None))


# In the engine core: every request passes here, whatever front end brought it.


def _admit(plain: Callable[..., object], core: object, request: _Request) -> object:
    options = _options(getattr(core, "vllm_config", None))
    extra = request.sampling_params.extra_args if request.sampling_params is not None else None
    try:
        settings = settings_of(extra, armed=options is not None, unmarked=options.unmarked if options else "")
    except RowSettingsError as error:
        return _refused(plain, core, request, str(error))
    request.cache_salt = settings.salt(request.cache_salt)
    made = plain(core, request)
    setattr(cast("tuple[object, int]", made)[0], _MARK, settings)
    if settings.do != "nothing" and request.sampling_params is not None:
        extra = dict(request.sampling_params.extra_args or {})
        request.sampling_params.extra_args = {**extra, KEY: settings.render()}
    return made


def _refused(plain: Callable[..., object], core: object, request: _Request, said: str) -> object:
    """Refuse a request: by an error where the engine core answers one, and at its first token where an error would tear it.

    In one process vLLM knows the request already when its core refuses it, and would wait for its answer for ever.
    """
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.core import EngineCoreProc

    if isinstance(core, EngineCoreProc):
        raise VLLMValidationError(said, parameter="vllm_xargs")
    if request.sampling_params is not None:
        extra = request.sampling_params.extra_args or {}
        request.sampling_params.extra_args = {name: value for name, value in extra.items() if name != KEY}
    made = plain(core, request)
    setattr(cast("tuple[object, int]", made)[0], _REFUSED, said)
    return made


def _cache(plain: Callable[..., object], coordinator: object, request: _Request, computed: int) -> object:
    """Keep blocks out of the prefix cache that hold edited tokens: a later turn would read them as if they were plain."""
    settings = getattr(request, _MARK, None)
    if isinstance(settings, RowSettings) and settings.edits:
        computed = min(computed, request.num_prompt_tokens - 1)
    return plain(coordinator, request, computed)


def _release(plain: Callable[..., object], scheduler: object, scheduled: object, made: object) -> object:
    """Send no token of a row that is not stamped, and send the stamp with every one."""
    requests: Mapping[str, _Request] = getattr(scheduler, "requests")  # noqa: B009 - vLLM's
    wanted = {name: one for name, request in requests.items() if (one := getattr(request, _MARK, None)) is not None}
    refused = {name: said for name, request in requests.items() if (said := getattr(request, _REFUSED, None))}
    stamps: dict[str, Stamp] = scheduler.__dict__.setdefault(_MARK, {})
    stamps |= getattr(made, _MARK, {})
    found = cast("dict[int, _Outputs]", plain(scheduler, scheduled, made))
    for outputs in found.values():
        for output in outputs.outputs:
            settings = wanted.get(output.request_id, RowSettings("nothing"))
            stamp = stamps.get(output.request_id)
            if (said := refused.get(output.request_id)) is not None:
                _stop(scheduler, output)
                output.kv_transfer_params = {KEY: {"error": said}}
                continue
            if output.new_token_ids and fault(stamp, settings) is not None:
                _stop(scheduler, output)
            if settings.do != "nothing":  # on every piece: a stop string ends a row in the front end
                output.kv_transfer_params = {**(output.kv_transfer_params or {}), KEY: stamp}
    for name in stamps.keys() - requests.keys():
        del stamps[name]
    return found


def _stop(scheduler: object, output: _Output) -> None:
    from vllm.v1.engine import FinishReason
    from vllm.v1.request import RequestStatus

    output.new_token_ids = []
    output.new_logprobs = output.new_prompt_logprobs_tensors = None  # beam search goes on from these alone
    if output.finish_reason is None:
        finish: Callable[..., object] = getattr(scheduler, "finish_requests")  # noqa: B009 - vLLM's
        finish(output.request_id, RequestStatus.FINISHED_ERROR)
    output.finish_reason = FinishReason.ERROR


# In the worker: the tables are filled, the layers run the op, and the stamps are made.


def _load(plain: Callable[..., object], runner: object, *given: object, **named: object) -> object:
    config = getattr(runner, "vllm_config")  # noqa: B009 - vLLM's
    options = _options(config)
    if options is None:
        return plain(runner, *given, **named)
    check_engine(config)
    done = plain(runner, *given, **named)
    if _MARK not in vars(runner):
        setattr(runner, _MARK, _armed(runner, config, options))
    return done


def _armed(runner: object, config: object, options: EngineOptions) -> Rows:
    """Install the op and return the bookkeeping beside it."""
    from langchain_vlmguard.vllm.layers import decoder_layers, install
    from langchain_vlmguard.vllm.programmes import DirectionSets
    from langchain_vlmguard.vllm.rows import Rows
    from langchain_vlmguard.vllm.tables import Tables

    sets = DirectionSets(options.load())
    text = config.model_config.hf_config.get_text_config()  # type: ignore[attr-defined]
    card = next(iter(sets.sets.values())).card
    if (card.layers, card.hidden_size) != (text.num_hidden_layers, text.hidden_size):
        msg = (
            f"the directions are for {card.layers} layers of {card.hidden_size}, and the model has "
            f"{text.num_hidden_layers} of {text.hidden_size}"
        )
        raise EngineRefusedError(msg)
    _check_weights(getattr(runner, "model"), int(text.vocab_size), card.weights_hash)  # noqa: B009 - vLLM's
    scheduler = config.scheduler_config  # type: ignore[attr-defined]
    rows, tokens = int(scheduler.max_num_seqs), int(scheduler.max_num_batched_tokens) + int(scheduler.max_num_seqs)
    tables = Tables(sets.vectors, rows, tokens, getattr(runner, "device", "cpu"))
    install(decoder_layers(getattr(runner, "model"), card.layers), tables)  # noqa: B009 - vLLM's
    return Rows(tables, sets, "v1")


def _check_weights(model: object, vocabulary: int, wanted: str) -> None:
    """Make sure that directions were fitted on the weights in this worker.

    Raises:
        EngineRefusedError: They were not, or it cannot be told.
    """
    from langchain_vlmguard.steering.directions import table_hash

    modules = cast("nn.Module", model).named_modules()
    tables = [module for name, module in modules if name.rpartition(".")[2] == "embed_tokens"]
    hashes = [table_hash(cast("Tensor", one.weight)[:vocabulary]) for one in tables]
    if hashes != [wanted]:
        msg = f"the directions were fitted on other weights: token embeddings {wanted}, and here are {hashes or 'none'}"
        raise EngineRefusedError(msg)


def _prepare(plain: Callable[..., object], runner: object, scheduled: _Scheduled, *given: object) -> object:
    done = plain(runner, scheduled, *given)
    rows: Rows | None = getattr(runner, _MARK, None)
    if rows is not None:
        _fill(rows, runner, scheduled)
    return done


def _fill(rows: Rows, runner: object, scheduled: _Scheduled) -> None:
    from langchain_vlmguard.vllm.rows import Span

    batch, states = getattr(runner, "input_batch"), getattr(runner, "requests")  # noqa: B009 - vLLM's
    spans = []
    for place, request in enumerate(batch.req_ids):
        state = states[request]
        extra = getattr(state.sampling_params, "extra_args", None) or {}
        if KEY in extra:
            rows.begin(request, RowSettings.parse(extra[KEY]), int(state.num_prompt_tokens))
        start = int(batch.num_computed_tokens_cpu[place])
        spans.append(Span(request, start, scheduled.num_scheduled_tokens[request]))
    rows.fill(spans)


def _execute(
    plain: Callable[..., object], runner: object, scheduled: _Scheduled, *given: object, **named: object
) -> object:
    rows: Rows | None = getattr(runner, _MARK, None)
    if rows is not None:
        rows.finish(scheduled.finished_req_ids)
    made = plain(runner, scheduled, *given, **named)
    if rows is not None:
        stamps = rows.collect()
        runner.__dict__["_vlmguard_stamps"] = stamps
        _attach(made, stamps)
    return made


def _stamped(plain: Callable[..., object], runner: object, *given: object, **named: object) -> object:
    made = plain(runner, *given, **named)
    _attach(made, runner.__dict__.pop("_vlmguard_stamps", {}))
    return made


def _attach(made: object, stamps: dict[str, Stamp]) -> None:
    if made is not None and stamps:
        setattr(made, _MARK, stamps)


def _report(worker: object) -> dict[str, object]:
    """Say what is armed in this worker; asked for before the first request."""
    rows: Rows | None = getattr(getattr(worker, "model_runner", None), _MARK, None)
    if rows is None:
        return {"armed": False, "pid": os.getpid()}
    return {
        "armed": True,
        "pid": os.getpid(),
        "version": OP_VERSION,
        "runner": rows.runner,
        "layers": len(rows.tables.vectors),
        "directions": {name: one.hash for name, one in rows.sets.sets.items()},
    }
