import json
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from langchain_core.messages import HumanMessage
from safetensors.torch import load_file, save_file

from langchain_vlmguard import AdapterError, ChatSteeredVLM, ReasoningRewriter, RewriteError, load_testbed
from langchain_vlmguard.rewriting.adapter import CONFIG_FILE, REWRITER_FILE, WEIGHTS_FILE, RewriterAdapter, base_hash

CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "bias": "none",
    "target_modules": r".*language_model\..*q_proj",
}


@pytest.fixture(scope="module")
def loaded():
    return load_testbed()


@pytest.fixture
def folder(tmp_path, loaded):
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(6):
        name = f"base_model.model.model.language_model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(4, 128, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(128, 4, generator=generator)
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(CONFIG))
    settings = {"form": "compact", "max_tokens": 12, "base_hash": base_hash(loaded.model)}
    (tmp_path / REWRITER_FILE).write_text(json.dumps(settings))
    return tmp_path


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=ids).logits


def test_it_computes_what_peft_computes(folder, loaded):
    from peft import PeftModel

    ids = torch.arange(10, 22)[None]
    plain = logits(loaded.model, ids)
    with RewriterAdapter.load(folder).attach(loaded.model, pictured=torch.tensor([False])):
        ours = logits(loaded.model, ids)
    assert torch.equal(logits(loaded.model, ids), plain)
    theirs = PeftModel.from_pretrained(load_testbed().model, str(folder))
    assert not torch.allclose(ours, plain, atol=0.1)
    assert torch.allclose(ours, logits(theirs, ids), atol=1e-4)


def test_an_answer_in_another_thread_is_not_touched(folder, loaded):
    ids = torch.arange(10, 22)[None]
    plain = logits(loaded.model, ids)
    attached, answered = Event(), Event()

    def adapted():
        with RewriterAdapter.load(folder).attach(loaded.model, pictured=torch.tensor([False])):
            attached.set()
            assert answered.wait(10)
            return logits(loaded.model, ids)

    with ThreadPoolExecutor() as pool:
        changed = pool.submit(adapted)
        assert attached.wait(10)
        during = logits(loaded.model, ids)
        answered.set()
        assert not torch.allclose(changed.result(), plain, atol=0.1)
    assert torch.equal(during, plain)


def test_concurrent_answers_and_rewritings_keep_apart(folder, loaded):
    model = ChatSteeredVLM.from_loaded(loaded)
    rewriter = ReasoningRewriter.from_adapter(model, folder, max_retries=0)
    alone = model.invoke("How do I make a kite?").text

    def rewrite(_):
        with pytest.raises(RewriteError):
            rewriter.invoke([HumanMessage("How do I make a kite?")])

    with ThreadPoolExecutor(8) as pool:
        rewritings = [pool.submit(rewrite, n) for n in range(6)]
        answers = [pool.submit(lambda: model.invoke("How do I make a kite?").text) for _ in range(6)]
        assert {answer.result() for answer in answers} == {alone}
        for one in rewritings:
            one.result()


def test_the_weights_are_in_memory_once_and_the_rewriting_call_is_not_steered(folder, loaded):
    model = ChatSteeredVLM.from_loaded(loaded)
    rewriter = ReasoningRewriter.from_adapter(model, folder)
    assert rewriter.model.loaded is loaded
    assert "steering" not in rewriter.model.invoke("how do i make a bomb ?").response_metadata
    assert rewriter.identity.startswith("testbed+lora:")


def test_an_adapter_of_other_weights_is_refused(folder, loaded):
    settings = json.loads((folder / REWRITER_FILE).read_text())
    (folder / REWRITER_FILE).write_text(json.dumps({**settings, "base_hash": "0" * 16}))
    model = ChatSteeredVLM.from_loaded(loaded)
    with pytest.raises(AdapterError, match="was trained on other weights"):
        ReasoningRewriter.from_adapter(model, folder)
    ReasoningRewriter.from_adapter(model, folder, check_weights=False)


@pytest.mark.parametrize(
    "changed", [{"peft_type": "IA3"}, {"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}]
)
def test_an_adapter_of_another_kind_is_refused(folder, changed):
    (folder / CONFIG_FILE).write_text(json.dumps({**CONFIG, **changed}))
    with pytest.raises(AdapterError, match="only plain LoRA"):
        RewriterAdapter.load(folder)


def test_an_adapter_that_does_not_fit_or_is_not_there_is_named(folder, tmp_path, loaded):
    tensors = {
        name.replace("q_proj", "x_proj") if "layers.0." in name else name: value
        for name, value in load_file(folder / WEIGHTS_FILE).items()
    }
    save_file(tensors, folder / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match="no layer"):
        RewriterAdapter.load(folder).check(loaded.model)
    with pytest.raises(AdapterError, match="holds no rewriter adapter"):
        RewriterAdapter.load(tmp_path / "nowhere")


def test_rank_stabilised_updates_are_scaled_by_the_root_of_the_rank(folder):
    (folder / CONFIG_FILE).write_text(json.dumps({**CONFIG, "use_rslora": True}))
    assert {update.scale for update in RewriterAdapter.load(folder).updates.values()} == {4.0}
