"""Supervised fine-tuning of a rewriter: a LoRA adapter on the language layers, loss on the answer's tokens alone."""

from __future__ import annotations

import hashlib
import json
import random
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from langchain_vlmguard.errors import extra
from langchain_vlmguard.files import folder_written_whole, write_json, write_text
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.loading import LoadedVLM, load_vlm
from langchain_vlmguard.rewriting.adapter import CONFIG_FILE, REWRITER_FILE, WEIGHTS_FILE, base_hash
from langchain_vlmguard.rewriting.card import adapter_card
from langchain_vlmguard.rewriting.forms import form_of
from langchain_vlmguard.rewriting.synthesis import DATA_FILE, MANIFEST_FILE, Example, read_examples
from langchain_vlmguard.steering.architectures import locate_decoder
from langchain_vlmguard.steering.encoding import encode_texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel, ProcessorMixin, TrainingArguments

    from langchain_vlmguard.verdict.records import Json

IGNORED = -100
_KEPT_BYTES = 64_000
"""Encoded pictures up to this size are kept in memory; larger ones are read again each epoch."""


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything that decides the adapter. The defaults are for 7B checkpoints."""

    form: str = "delimited"
    """Written form, see `rewriting.forms`."""

    words: dict[str, str] = field(default_factory=dict)
    """How a compact form is written, in words that the model has said before."""

    system_prompt: str | None = None
    """Another instruction for the delimited form; `{hazards}` and `{boundary}` are filled in."""

    epochs: float = 2.0
    batch: int = 4
    accumulate: int = 8
    learning_rate: float = 1e-4
    rank: int = 32
    alpha: int = 64
    dropout: float = 0.05
    warmup: float = 0.03
    """Share of the steps over which the learning rate rises; it falls along a cosine afterwards."""

    max_tokens: int = 1024
    """Most tokens that the rewriter may answer with."""

    validation: float = 0.05
    """Share of the items that are kept from training, chosen by their ids."""

    checkpoint_every: int = 100
    """Steps between two checkpoints."""

    seed: int = 0


def train_rewriter(
    model: str, data: Path, out: Path, recipe: TrainingRecipe, *, work: Path | None = None, **load_options: Any
) -> Json:
    """Train a rewriter's adapter, or go on from the last checkpoint, and write adapter, settings and model card.

    Args:
        model: Checkpoint that the adapter belongs to: a folder, a hub id or `"testbed"`.
        data: A finished folder of `vlmguard rewriter synthesize`.
        out: Where the adapter goes, in peft's format.
        recipe: Sizes and steps.
        work: Where checkpoints go; beside `out` when `None`.
        load_options: Passed to `load_vlm`, e.g. `dtype` or `device`.

    Returns:
        What the card says: recipe, validation metrics, seconds, versions.

    Raises:
        ImportError: The extra `train` is not installed.
        ValueError: There is nothing to train on, or the work folder belongs to another run.
    """
    started = time.perf_counter()
    examples = read_examples(data)
    training, validation = split_examples(examples, recipe.validation)
    if not training:
        msg = f"{data} leaves nothing to train on: it holds {len(examples)} items"
        raise ValueError(msg)
    loaded = load_vlm(model, **load_options)
    work = work or out.with_name(f"{out.name}-checkpoints")
    _same_run(work, recipe, data)
    with folder_written_whole(out) as beside:
        _fit(loaded, EncodedExamples(training, loaded.processor, recipe), recipe, work, beside)
        seconds = time.perf_counter() - started
        facts = _facts(loaded, recipe, data, len(training), seconds)
        write_json(beside / REWRITER_FILE, facts)
        facts["metrics"] = _metrics(model, beside, validation, load_options)
        write_json(beside / REWRITER_FILE, facts)
        write_text(beside / "README.md", adapter_card(facts))
    return facts


def split_examples(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Split by a hash of each id, so that the split outlives changes of order and size."""
    held = [int(hashlib.sha256(e.item.id.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF < share for e in examples]
    return (
        [e for e, out in zip(examples, held, strict=True) if not out],
        [e for e, out in zip(examples, held, strict=True) if out],
    )


class EncodedExamples(Dataset[dict[str, Any]]):
    """Training rows of a processor: the prompt as it will be asked, then the answer, labels on the answer alone."""

    def __init__(self, examples: Sequence[Example], processor: ProcessorMixin, recipe: TrainingRecipe) -> None:
        """Encode on demand; small pictures are kept."""
        self.examples, self._processor = list(examples), processor
        self._system_prompt = recipe.system_prompt
        self._form = form_of(recipe.form, recipe.words)
        self._kept: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.examples)

    def pictured(self, index: int) -> bool:
        """Whether a row shows a picture."""
        return self.examples[index].item.image is not None

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return `input_ids`, `labels` `(tokens,)` int64 and what else the processor gives for one row."""
        if index in self._kept:
            return self._kept[index]
        row = self._encode(self.examples[index])
        if sum(value.numel() * value.element_size() for value in row.values()) <= _KEPT_BYTES:
            self._kept[index] = row
        return row

    def _encode(self, example: Example) -> dict[str, Tensor]:
        tokenizer = self._processor.tokenizer
        asked = self._form.ask(example.item.messages(), system_prompt=self._system_prompt)
        chat = to_chat_row(asked, self._processor)
        row: dict[str, Tensor] = encode_texts(self._processor, [chat.text], [chat.pictures] if chat.pictures else [])
        answer = tokenizer(self._form.write(example.report, example.rewrite), add_special_tokens=False)["input_ids"]
        tail = torch.tensor([[*answer, tokenizer.eos_token_id]])
        prompt = row["input_ids"]
        row["labels"] = torch.cat([torch.full_like(prompt, IGNORED), tail], dim=1)
        for name in [name for name, value in row.items() if value.shape == prompt.shape and name != "labels"]:
            filler = tail if name == "input_ids" else torch.full_like(tail, int(name == "attention_mask"))
            row[name] = torch.cat([row[name], filler], dim=1)
        return row


def collate(rows: Sequence[dict[str, Tensor]], pad: int) -> dict[str, Tensor]:
    """Pad token tensors to the right and join picture tensors along their first axis."""
    longest = max(row["input_ids"].shape[1] for row in rows)
    fillers = {"input_ids": pad, "labels": IGNORED}
    batch: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        having = [row for row in rows if name in row]
        given = [row[name] for row in having]
        if having[0][name].shape == having[0]["input_ids"].shape:
            given = [nn.functional.pad(v, (0, longest - v.shape[1]), value=fillers.get(name, 0)) for v in given]
        batch[name] = torch.cat(given)
    return batch


class _AlikeBatches(Sampler[int]):
    """A shuffled order whose batches show a picture in every row or in none; some families cannot mix them."""

    def __init__(self, rows: EncodedExamples, batch: int, seed: int) -> None:
        self._rows, self._batch, self._seed, self._epoch = rows, batch, seed, 0

    def __len__(self) -> int:
        return len(self._rows)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle in another way in each epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self._seed}:{self._epoch}")
        whole: list[list[int]] = []
        rest: list[int] = []
        for pictured in (True, False):
            indices = [i for i in range(len(self._rows)) if self._rows.pictured(i) == pictured]
            rng.shuffle(indices)
            cut = len(indices) // self._batch * self._batch
            whole += [indices[at : at + self._batch] for at in range(0, cut, self._batch)]
            rest += indices[cut : cut + self._batch] if not rest else []
        rng.shuffle(whole)
        self._epoch += 1
        yield from (index for batch in whole for index in batch)
        yield from rest


def language_linears(model: PreTrainedModel) -> list[str]:
    """Return the names of the linear layers inside the decoder's layers; vision tower and projector are not among them."""
    inside = {id(module) for layer in locate_decoder(model).layers for module in layer.modules()}
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and id(module) in inside]


def _fit(loaded: LoadedVLM, rows: EncodedExamples, recipe: TrainingRecipe, work: Path, out: Path) -> None:
    with extra("train"):
        from peft import LoraConfig, get_peft_model
        from transformers import Trainer
    from transformers.trainer_utils import get_last_checkpoint

    class AlikeTrainer(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_args: Any, **_kwargs: Any) -> Sampler[int]:
            return _AlikeBatches(rows, recipe.batch, recipe.seed)

    torch.manual_seed(recipe.seed)
    lora = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=language_linears(loaded.model),
    )
    adapted = get_peft_model(loaded.model, lora)
    pad = loaded.processor.tokenizer.pad_token_id
    trainer = AlikeTrainer(
        model=adapted,
        args=_arguments(recipe, work, len(rows)),
        train_dataset=rows,
        data_collator=lambda batch: collate(batch, pad),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work)))
    adapted.save_pretrained(str(out))
    _halve(out / WEIGHTS_FILE)
    config = json.loads((out / CONFIG_FILE).read_text())
    write_json(out / CONFIG_FILE, {**config, "base_model_name_or_path": loaded.name})


def _arguments(recipe: TrainingRecipe, work: Path, rows: int) -> TrainingArguments:
    from transformers import TrainingArguments

    steps = recipe.epochs * rows / (recipe.batch * recipe.accumulate)
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch,
        gradient_accumulation_steps=recipe.accumulate,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe.warmup * steps),
        logging_steps=max(1, min(50, round(steps / 10))),
        save_steps=recipe.checkpoint_every,
        save_total_limit=2,
        seed=recipe.seed,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=False,
    )


def _halve(path: Path) -> None:
    """Keep the adapter in half precision."""
    save_file({name: value.half() for name, value in load_file(path).items()}, path, metadata={"format": "pt"})


def _facts(loaded: LoadedVLM, recipe: TrainingRecipe, data: Path, trained_on: int, seconds: float) -> Json:
    import peft
    import transformers

    manifest = data / MANIFEST_FILE
    return {
        "form": recipe.form,
        "words": recipe.words,
        "system_prompt": recipe.system_prompt,
        "max_tokens": recipe.max_tokens,
        "base": loaded.name,
        "base_hash": base_hash(loaded.model),
        "recipe": asdict(recipe),
        "trained_on": trained_on,
        "data": json.loads(manifest.read_text()) if manifest.is_file() else {},
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    }


def _metrics(model: str, out: Path, validation: list[Example], load_options: Json) -> Json:
    from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
    from langchain_vlmguard.rewriting.metrics import measure_rewriter
    from langchain_vlmguard.rewriting.rewriter import ReasoningRewriter

    if not validation:
        return {}
    fresh = ChatSteeredVLM.from_loaded(load_vlm(model, **load_options), steering=None)
    return measure_rewriter(ReasoningRewriter.from_adapter(fresh, out, max_retries=0), validation)


def _same_run(work: Path, recipe: TrainingRecipe, data: Path) -> None:
    """Write down what these checkpoints are trained from; those of another recipe must not be continued."""
    digest = hashlib.sha256((data / DATA_FILE).read_bytes()).hexdigest()
    wanted = json.dumps({"recipe": asdict(recipe), "data": digest}, indent=1)
    path = work / "run.json"
    if any(work.glob("checkpoint-*")) and path.is_file() and path.read_text(encoding="utf-8") != wanted:
        msg = f"{work} holds checkpoints of another recipe or other data: name another work folder, or remove it"
        raise ValueError(msg)
    write_text(path, wanted)
