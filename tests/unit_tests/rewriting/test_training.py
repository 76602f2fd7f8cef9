import json

import pytest
import torch
from langchain_core.exceptions import ContextOverflowError
from safetensors.torch import load_file
from typer.testing import CliRunner

from langchain_vlmguard import ChatSteeredVLM, ReasoningRewriter, RewriteError, load_testbed
from langchain_vlmguard.cli.app import app
from langchain_vlmguard.rewriting.adapter import REWRITER_FILE, WEIGHTS_FILE
from langchain_vlmguard.rewriting.metrics import measure_rewriter
from langchain_vlmguard.rewriting.report import Rewrite
from langchain_vlmguard.rewriting.synthesis import read_examples
from langchain_vlmguard.rewriting.training import (
    IGNORED,
    EncodedExamples,
    TrainingRecipe,
    collate,
    language_linears,
    split_examples,
    train_rewriter,
)
from tests.tiny_models import tiny_qwen2_vl
from vlmguard_lab.testbed.rewriting import rewriter_recipe
from vlmguard_lab.testbed.synthesis import synthesize_testbed

SHORT = TrainingRecipe(
    epochs=2, batch=2, accumulate=1, rank=4, alpha=8, max_tokens=8, validation=0.4, system_prompt="Judge. {boundary}"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    synthesize_testbed(folder, n=24)
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    model, processor = tiny_qwen2_vl()
    model.config.text_config.max_position_embeddings = 2048
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def test_the_same_command_trains_a_qwen2_vl_and_its_adapter_loads(data, qwen, tmp_path):
    facts = train_rewriter(qwen, data, tmp_path / "out", SHORT)
    assert (facts["form"], facts["trained_on"] + facts["metrics"]["n"]) == ("delimited", 24)
    assert 0 <= facts["metrics"]["parse_rate"] <= 1
    model = ChatSteeredVLM.from_pretrained(qwen, steering=None)
    rewriter = ReasoningRewriter.from_adapter(model, tmp_path / "out", max_retries=0)
    assert rewriter.system_prompt == "Judge. {boundary}"
    with pytest.raises(RewriteError):
        rewriter.invoke(read_examples(data)[0].item.messages())
    card = (tmp_path / "out/README.md").read_text()
    assert "benign_faithfulness" in card
    assert facts["base_hash"] in card


def test_a_stopped_training_goes_on_and_another_recipe_is_refused(data, tmp_path):
    recipe = rewriter_recipe()
    small = TrainingRecipe(
        form="compact", words=recipe.words, epochs=1, batch=4, accumulate=1, rank=2, validation=0.0, checkpoint_every=2,
        learning_rate=1e-2,
    )  # fmt: skip
    whole = train_rewriter("testbed", data, tmp_path / "whole", small)
    work = tmp_path / "whole-checkpoints"
    last = max(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in sorted(last.iterdir()):
        path.unlink()
    last.rmdir()
    (tmp_path / "whole").rename(tmp_path / "first")
    again = train_rewriter("testbed", data, tmp_path / "whole", small, work=work)
    assert again["recipe"] == whole["recipe"]
    first, second = (load_file(tmp_path / name / WEIGHTS_FILE) for name in ("first", "whole"))
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=1e-2) for name in first)
    with pytest.raises(ValueError, match="another recipe or other data"):
        train_rewriter("testbed", data, tmp_path / "x", SHORT, work=work)


def test_the_loss_is_on_the_answer_alone_and_the_tower_is_frozen(data):
    loaded, examples = load_testbed(), read_examples(data)
    rows = EncodedExamples(examples, loaded.processor, rewriter_recipe())
    tokenizer = loaded.processor.tokenizer
    for index in range(len(rows)):
        labels = rows[index]["labels"][0]
        answer = tokenizer.decode(labels[labels != IGNORED])
        assert answer.strip().startswith("facts speak")
        assert answer.endswith("<end>")
    batch = collate([rows[i] for i in range(4)], tokenizer.pad_token_id)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert len(batch["pixel_values"]) == sum(rows.pictured(i) for i in range(4))
    names = language_linears(loaded.model)
    assert len(names) == 6 * 7
    assert all("language_model" in name for name in names)


def test_the_split_outlives_changes_of_order(data):
    examples = read_examples(data)
    kept, held = split_examples(examples, 0.4)
    again, held_again = split_examples(examples[::-1], 0.4)
    assert {e.item.id for e in held} == {e.item.id for e in held_again}
    assert len(kept) + len(held) == 24
    assert len(again) == len(kept)


def test_metrics_count_unreadable_answers_as_wrong(data):
    examples = read_examples(data)
    right = {example.item.prompt + str(example.item.image): example.rewrite for example in examples}

    class Oracle:
        def batch(self, asked, config, return_exceptions):
            return [right[e.item.prompt + str(e.item.image)] for e in examples]

    class Mute(Oracle):
        def batch(self, asked, config, return_exceptions):
            return [RewriteError("nothing")] * len(asked)

    class Small(Oracle):
        def batch(self, asked, config, return_exceptions):
            return [ContextOverflowError("the prompt is too long")] * len(asked)

    assert measure_rewriter(Small(), examples)["parse_rate"] == 0

    class Shy(Oracle):
        def batch(self, asked, config, return_exceptions):
            return [Rewrite(threats=[], intent="", action="refuse", risk=1)] * len(asked)

    best, worst, shy = (measure_rewriter(kind(), examples) for kind in (Oracle, Mute, Shy))
    assert (best["parse_rate"], best["action_accuracy"], best["benign_faithfulness"]) == (1, 1, 1)
    assert set(best["hazard_f1"].values()) <= {1.0, None}
    assert (worst["parse_rate"], worst["action_accuracy"], worst["benign_faithfulness"]) == (0, 0, 0)
    assert (shy["parse_rate"], shy["benign_faithfulness"], shy["hazard_f1"]["visual"]) == (1, 0, 0)


def test_the_commands(tmp_path):
    runner = CliRunner()
    done = runner.invoke(app, ["rewriter", "synthesize", "testbed", str(tmp_path / "data"), "--limit", "12"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "data/manifest.json").read_text())["kept"] == 12
    options = ["--epochs", "1", "--rank", "2", "--batch", "4"]
    done = runner.invoke(app, ["rewriter", "train", str(tmp_path / "data"), str(tmp_path / "out"), *options])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / REWRITER_FILE).read_text())["recipe"]["alpha"] == 4
    missing = runner.invoke(app, ["rewriter", "synthesize", str(tmp_path / "none.jsonl"), str(tmp_path / "x")])
    assert missing.exit_code == 2
