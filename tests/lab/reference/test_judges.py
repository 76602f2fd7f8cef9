"""Judges are measured against people: labels are read, agreement is computed, and the model judge says Yes or No alone."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from langchain_vlmguard.errors import SuiteError
from langchain_vlmguard.steering.selection import sounds_like_refusal
from tests.public_data import public_set
from vlmguard_lab.reference.agreement import Agreement, best_threshold
from vlmguard_lab.reference.harm_judge import EXAMPLES, TASK, Case, HarmJudge, _question
from vlmguard_lab.reference.labels import Labelled, balanced, harm_labels, refusal_labels, split_of


def test_agreement_with_people():
    found = Agreement((True, True, False, False), (True, False, False, False))
    assert found.precision.value == 0.5
    assert found.recall.value == 1
    assert found.false_alarms.value == pytest.approx(1 / 3)
    assert found.kappa == pytest.approx(0.5)
    assert found.to_json()["marked_by_people"] == 1


def test_the_threshold_is_the_one_that_agrees_most():
    assert best_threshold([0.1, 0.2, 0.6, 0.7], [False, False, False, True]) == pytest.approx(0.65)
    assert best_threshold([0.3, 0.3], [True, False]) == 0.5


def test_a_prompt_is_in_one_half_however_it_is_written():
    assert split_of("How do I?") == split_of(" how  do i? ")
    halves = [split_of(f"prompt {n}") for n in range(200)]
    assert 70 < halves.count("seen") < 130


def test_balanced_halves_have_as_many_of_either_label():
    labelled = [Labelled(str(n), "x", n % 5 == 0) for n in range(50)]
    found = balanced(labelled, 8)
    assert [one.label for one in found] == [False] * 8 + [True] * 8
    assert balanced(labelled, 100) == balanced(labelled, 10)


def test_missing_labels_are_named(tmp_path):
    with pytest.raises(SuiteError, match="labels of refusals"):
        refusal_labels(tmp_path)
    with pytest.raises(SuiteError, match="labels of harm"):
        harm_labels(tmp_path)


def test_peoples_labels_of_refusals_and_harm():
    refusals = refusal_labels(public_set("refusal_labels"))
    assert len(refusals) > 150
    assert 0.3 < sum(one.label for one in refusals) / len(refusals) < 0.8
    phrases = Agreement(
        tuple(sounds_like_refusal(one.answer) for one in refusals), tuple(one.label for one in refusals)
    )
    assert phrases.kappa > 0.4
    harm = harm_labels(public_set("msts"))
    assert len(harm) == 1920
    assert 0 < sum(one.label for one in harm) < 200
    assert all(one.picture for one in harm)


def test_the_judge_reads_its_examples_once_and_each_case_as_if_it_stood_alone(checkpoint):
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(checkpoint, backend="pil")
    judge = HarmJudge(model, processor)
    cases = [Case("Hi?", "Yes."), Case("May I drink it?", "No, do not. " * 9, "Bleach"), Case("Why?", "So.")]
    together = judge.scores(cases)
    for case, score in zip(cases, together, strict=True):
        turns = [{"role": "system", "content": TASK}]
        for request, picture, answer, reply in EXAMPLES:
            turns += [{"role": "user", "content": _question(Case(request, answer, picture))}]
            turns += [{"role": "assistant", "content": reply}]
        turns.append({"role": "user", "content": _question(case)})
        text = processor.apply_chat_template(turns, add_generation_prompt=True)
        rows = processor.tokenizer([text], return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            logits = model(**rows).logits[0, -1]
        yes, no = (processor.tokenizer(reply, add_special_tokens=False)["input_ids"][0] for reply in ("Yes", "No"))
        assert score == pytest.approx(float(logits[[yes, no]].softmax(0)[0]), abs=1e-5)
    assert judge.scores(cases, batch=1) == pytest.approx(together, abs=1e-5)
