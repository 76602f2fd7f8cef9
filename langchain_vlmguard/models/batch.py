"""Rows that decode together: prefilled by `generate`, stepped one token at a time, joined and thinned out on the way.

`transformers` sets up the call (`generate` with a decoding function of ours), and its own `prepare_inputs_for_generation` and
`_update_model_kwargs_for_generation` run every step, so that each family decodes as it does in `generate`. What is added is
what its loop lacks: rows leave when they are done, and newly prefilled rows join rows that decode already.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from contextvars import Context
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad
from transformers import GenerationMixin
from transformers.cache_utils import DynamicCache, DynamicLayer

from langchain_vlmguard.models.adapters import using_adapter
from langchain_vlmguard.models.decoding import RowDecoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
    from transformers.utils import ModelOutput

    from langchain_vlmguard.models.requests import Request
    from langchain_vlmguard.models.runtime import Runtime
    from langchain_vlmguard.steering.attachment import AttachedCall, Attachment

ROWWISE = ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids")
"""Keyword arguments that grow by one column a token; rows are the axis before the last, for `position_ids` too."""

_PREPARED = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
CACHE = "cache" if "cache" in _PREPARED else "past_key_values"
"""What a call's keyword arguments and a model's output call the keys and values; transformers 5.24 renamed them."""

PICTURES = ("pixel_", "image_", "mm_encoder_")
"""Prefixes of the keyword arguments that only the prefill reads."""


class Batch:
    """Requests of one kind, from their prefill to their last token."""

    def __init__(self, runtime: Runtime, requests: Sequence[Request], inputs: dict[str, Tensor]) -> None:
        """Take encoded, left-padded rows; nothing runs yet."""
        self.kind = requests[0].kind
        self._runtime = runtime
        self._requests = list(requests)
        self._model = runtime.model
        self._adapter = requests[0].settings.adapter
        self._inputs = inputs
        self._context = Context()
        self._stack = ExitStack()
        self._call: AttachedCall | None = None
        self._ids = inputs["input_ids"]
        self._kwargs: dict[str, Any] = {}
        self._over: list[RowDecoder] = []
        self.rows: list[RowDecoder | None] = []
        """One decoder a row of the tensors, `None` for a finished row."""

    @property
    def active(self) -> list[RowDecoder]:
        """The rows that are not finished."""
        return [row for row in self.rows if row is not None]

    def prefill(self) -> None:
        """Run the prompt and choose each row's first token."""
        self._context.run(self._prefill)

    def step(self) -> None:
        """Run every row by one token."""
        self._context.run(self._step)

    def close(self) -> None:
        """Take the attachment off the model."""
        self._context.run(self._stack.close)

    def _prefill(self) -> None:
        attachment = self._requests[0].attachment
        self._replace_pixels()
        if attachment is not None:
            pictured = torch.tensor([bool(request.row.pictures) for request in self._requests])
            text = self._query(attachment) if attachment.needs_text_query else None
            attached = attachment.attach(
                self._model, pictured=pictured, inputs=self._inputs, text_inputs=text, repeatable=self._rewinds
            )
            self._call = self._stack.enter_context(attached)
        longest = max(request.settings.max_tokens for request in self._requests)
        with using_adapter(self._model, self._adapter):
            self._model.generate(
                **self._inputs, max_new_tokens=longest, do_sample=False, num_beams=1, custom_generate=self._start
            )

    def _query(self, attachment: Attachment) -> dict[str, Tensor]:
        """Return the rows in the form that the attachment reads beside them; many are that already."""
        form, rows = attachment.query_form, [request.row for request in self._requests]
        same = all(not row.pictures and row.query(form) == row.text for row in rows)
        return self._inputs if same else self._runtime.encode(self._requests, form)

    def _replace_pixels(self) -> None:
        """Put the pictures' features in the place of their pixels."""
        if any(request.row.pictures for request in self._requests):
            with using_adapter(self._model, self._adapter):
                self._inputs = self._runtime.features.into(self._model, self._requests, self._inputs)

    def _step(self) -> None:
        width = 1 if self._kwargs["use_cache"] else None
        inputs = self._model.prepare_inputs_for_generation(self._ids, next_sequence_length=width, **self._kwargs)
        with using_adapter(self._model, self._adapter):
            outputs = self._model(**inputs, return_dict=True)
        self._advance(outputs)

    def drop(self) -> None:
        """Drop rows whose callers have left or whose time is up."""
        self.rows = [None if row is None or row.request.expire() else row for row in self.rows]

    def pop_over(self) -> list[RowDecoder]:
        """Return the finished rows that were not returned before."""
        over, self._over = self._over, []
        return over

    def thin(self) -> None:
        """Remove finished rows from the tensors once they are a quarter of them."""
        kept = [index for index, row in enumerate(self.rows) if row is not None]
        if kept and self.flexible and len(self.rows) - len(kept) >= len(self.rows) / 4:
            self._keep(kept)

    @property
    def flexible(self) -> bool:
        """Whether rows can leave and join: a plain cache, and no keyword argument of unknown shape."""
        cache = self._kwargs.get(CACHE)
        tensors = {name for name, value in self._kwargs.items() if isinstance(value, torch.Tensor)}
        if not isinstance(cache, DynamicCache) or not tensors <= set(ROWWISE):
            return False
        if not all(type(layer) is DynamicLayer and isinstance(layer.keys, torch.Tensor) for layer in cache.layers):
            return False
        return len({layer.keys.shape[2] for layer in cache.layers}) == 1

    def join(self, other: Batch) -> None:
        """Take over the rows of another flexible batch of the same kind; the other one is closed."""
        width = max(self._ids.shape[1], other._ids.shape[1])
        for batch in (self, other):
            batch._widen(width)
        self._ids = torch.cat((self._ids, other._ids))
        for name in ROWWISE:
            if self._kwargs.get(name) is not None:
                axis = _row_axis(self._kwargs[name])
                self._kwargs[name] = torch.cat((self._kwargs[name], other._kwargs[name]), dim=axis)
        theirs = other._kwargs[CACHE].layers
        for mine, new in zip(self._kwargs[CACHE].layers, theirs, strict=True):
            mine.keys = torch.cat((mine.keys, new.keys))
            mine.values = torch.cat((mine.values, new.values))
        if self._call is not None and other._call is not None:
            self._call.absorb(other._call)
        self.rows += other.rows
        other.rows = []
        other.close()

    def joins(self, other: Batch) -> bool:
        """Whether another batch may join."""
        names = [{name for name in ROWWISE if batch._kwargs.get(name) is not None} for batch in (self, other)]
        same = names[0] - {"attention_mask"} == names[1] - {"attention_mask"}
        return self.kind == other.kind and same and self.flexible and other.flexible

    def _start(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,  # noqa: ARG002 - rows know themselves when they are over
        generation_config: GenerationConfig,
        **kwargs: Any,
    ) -> None:
        """Decoding function for `generate`: the prefill and the first token; `step` goes on from here."""
        prompt = self._inputs["attention_mask"].sum(dim=1).tolist()
        outputs = model._prefill(input_ids, generation_config, kwargs)
        if self._call is not None and self._call.must_repeat:
            outputs = self._run_last_token_again(self._call, outputs[CACHE], input_ids, kwargs)
        traces = self._call.trace() if self._call else [None] * len(self._requests)
        self.rows = [
            RowDecoder(self._runtime, request, int(read), trace)
            for request, read, trace in zip(self._requests, prompt, traces, strict=True)
        ]
        self._ids, self._kwargs, self._processors = input_ids, kwargs, logits_processor
        self._encoder_decoder = bool(model.config.is_encoder_decoder)
        self._advance(outputs)
        self._kwargs = {name: value for name, value in self._kwargs.items() if not name.startswith(PICTURES)}
        if self._call is not None and not self._call.edits_decoding:
            self._stack.close()

    @property
    def _rewinds(self) -> bool:
        """Whether the last prompt token can be run again: causal attention, and a cache that gives it back.

        Encoder-decoders and families with `token_type_ids` (PaliGemma, Gemma 3) let earlier tokens look at later ones, so
        their states would not stand. Pictures that are still pixels reach some families (Mllama) by cross-attention in the
        prefill alone. And only a plain `DynamicLayer` can be cropped: a sliding window has lost what it would need again.
        """
        config = self._model.config
        layers = DynamicCache(config=config.get_text_config(decoder=True)).layers
        causal = not config.is_encoder_decoder and "token_type_ids" not in self._inputs
        return causal and "pixel_values" not in self._inputs and all(type(layer) is DynamicLayer for layer in layers)

    def _run_last_token_again(
        self, call: AttachedCall, cache: DynamicCache, input_ids: Tensor, kwargs: dict[str, Any]
    ) -> ModelOutput:
        """Take the last prompt token back out of the cache and run it again, now that its gate is known to be open."""
        cache.crop(-1)
        call.repeat()
        given = {name: value for name, value in kwargs.items() if not name.startswith(PICTURES)} | {CACHE: cache}
        inputs = self._model.prepare_inputs_for_generation(input_ids, next_sequence_length=1, **given)
        return self._model(**inputs, return_dict=True)

    def _advance(self, outputs: ModelOutput) -> None:
        self._kwargs = self._model._update_model_kwargs_for_generation(
            outputs, self._kwargs, is_encoder_decoder=self._encoder_decoder
        )
        logits = outputs.logits[:, -1].to(copy=True, dtype=torch.float32)
        scores = self._processors(self._ids, logits)
        tokens = scores.argmax(-1).tolist()
        for index, row in enumerate(self.rows):
            if row is None:
                continue
            try:
                if not row.plain:
                    tokens[index] = row.choose(scores[index])
                over = row.accept(tokens[index], logits[index])
            except Exception as error:  # noqa: BLE001 - one row's error is nobody else's
                row.request.fail(error)
                self.rows[index] = None
                continue
            if over:
                self._over.append(row)
                self.rows[index] = None
        chosen = torch.tensor(tokens, dtype=self._ids.dtype, device=self._ids.device)
        self._ids = torch.cat((self._ids, chosen[:, None]), dim=-1)

    def _keep(self, rows: list[int]) -> None:
        index = torch.tensor(rows, device=self._ids.device)
        self.rows = [self.rows[row] for row in rows]
        self._ids = self._ids[index]
        for name in ROWWISE:
            if self._kwargs.get(name) is not None:
                self._kwargs[name] = self._kwargs[name].index_select(_row_axis(self._kwargs[name]), index)
        self._kwargs[CACHE].batch_select_indices(index)
        if self._call is not None:
            self._call.keep(rows)

    def _widen(self, width: int) -> None:
        """Pad everything on the left to a width of `width` tokens, the newest of which the cache does not hold yet."""
        missing = width - self._ids.shape[1]
        if self._kwargs.get("attention_mask") is None:
            self._kwargs["attention_mask"] = torch.ones_like(self._ids)
        if missing == 0:
            return
        self._ids = pad(self._ids, (missing, 0))
        for name in ROWWISE:
            if self._kwargs.get(name) is not None:
                self._kwargs[name] = pad(self._kwargs[name], (missing, 0))
        for layer in self._kwargs[CACHE].layers:
            layer.keys = pad(layer.keys, (0, 0, missing, 0))
            layer.values = pad(layer.values, (0, 0, missing, 0))


def _row_axis(tensor: Tensor) -> int:
    return tensor.dim() - 2
