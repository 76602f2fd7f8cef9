"""Visual training: packed conversations count as if each stood alone, a stopped training goes on, nothing harmful is shown."""

import random

import pytest
import torch
from torch.nn import functional

from langchain_vlmguard.errors import DirectionsMismatchError
from langchain_vlmguard.steering.selection import sounds_like_refusal
from vlmguard_lab.reference.chat import answers_file, chat_answers, chat_prompts, facts
from vlmguard_lab.reference.concepts import concepts
from vlmguard_lab.reference.lessons import Lessons, pack
from vlmguard_lab.reference.packing import Packing
from vlmguard_lab.reference.projector import start_projector
from vlmguard_lab.reference.questions import SHARES, Questions
from vlmguard_lab.reference.reader import Asked, Reader
from vlmguard_lab.reference.recipe import RECIPES, Recipe, Stage
from vlmguard_lab.reference.training import Course, Trainer

KNOWN = [concept for concept in concepts() if not concept.harmful and not concept.held_out]
TALK = [
    Asked("What is it?", "A kite.", 0),
    Asked("Is it a dog?", "No.", 0),
    Asked("Why?", "So.", None),
    Asked("And this?", "Bread.", 1, picture_last=True),
    Asked("What?", "An owl.", 2, system="You sell toys."),
]
FEATURES = torch.randn(6, 4, 24, generator=torch.Generator().manual_seed(1)).half()


def losses(reader, talks):
    packing = Packing()
    for talk in talks:
        packing.add(reader.segments(talk))
    packed = packing.packed()
    hidden = reader.hidden_states(packed, dict(enumerate(FEATURES)))[0]
    logits = functional.linear(hidden[packed.sources], reader.head)
    return functional.cross_entropy(logits, packed.targets, reduction="none"), packed


def test_packed_conversations_count_as_if_each_stood_alone(checkpoint):
    reader = Reader(checkpoint)
    with torch.no_grad():
        together, packed = losses(reader, TALK)
        alone = [losses(reader, [talk]) for talk in TALK]
    assert packed.tokens.shape[1] < sum(one.tokens.shape[1] for _, one in alone), "what is shared is read once"
    torch.testing.assert_close(together.sort()[0], torch.cat([loss for loss, _ in alone]).sort()[0])


def test_a_conversation_is_written_as_the_template_writes_it(checkpoint):
    reader = Reader(checkpoint)
    for talk in TALK:
        parts = [{"type": "text", "text": talk.question}]
        if talk.picture is not None:
            parts.insert(1 if talk.picture_last else 0, {"type": "image"})
        turns = [{"role": "system", "content": talk.system}] if talk.system else []
        turns.append({"role": "user", "content": parts})
        text = reader.processor.apply_chat_template(turns, add_generation_prompt=True) + talk.answer + "<|im_end|>"
        wanted = reader.tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * 4))["input_ids"]
        assert [token for segment in reader.segments(talk) for token in segment.tokens] == wanted


RECIPE = Recipe(
    "0.5b",
    start_steps=4,
    targets=("q_proj", "v_proj"),
    rank=2,
    stages=(
        Stage("caption", 3, pictures=2, questions=1, chats=0, projector_rate=1e-3),
        Stage("instruct", 14, pictures=2, questions=2, chats=1, projector_rate=1e-3, adapter_rate=1e-2),
    ),
)


def course():
    shown = [KNOWN[0], KNOWN[1], KNOWN[2]] * 2
    return Course(Lessons(shown, Questions(KNOWN[:6], {}), {"Why?": "So.", "How?": "Thus."}, seed=0), FEATURES)


class StoppedError(Exception):
    """Stands for a kill."""


def test_a_stopped_training_ends_as_one_that_was_not(checkpoint, tmp_path):
    whole = Trainer(RECIPE, Reader(checkpoint), course(), tmp_path / "whole").run(print)
    lines = []

    def stop(line):
        lines.append(line)
        if line.startswith("instruct"):
            raise StoppedError

    with pytest.raises(StoppedError):
        Trainer(RECIPE, Reader(checkpoint), course(), tmp_path / "stopped").run(stop)
    assert "instruct 10/14" in lines[-1]
    resumed = Trainer(RECIPE, Reader(checkpoint), course(), tmp_path / "stopped").run(print)
    for name, weight in whole.projector.items():
        torch.testing.assert_close(resumed.projector[name], weight)
    for name, (down, up) in whole.adapter.items():
        torch.testing.assert_close(resumed.adapter[name][0], down)
        torch.testing.assert_close(resumed.adapter[name][1], up)
        assert up.abs().max() > 0


def test_another_recipe_does_not_go_on_from_a_checkpoint_but_a_longer_last_stage_does(checkpoint, tmp_path):
    Trainer(RECIPE.scaled(0.25), Reader(checkpoint), course(), tmp_path).run(print)
    with pytest.raises(DirectionsMismatchError):
        Trainer(RECIPE, Reader(checkpoint), course(), tmp_path).run(print)
    short = RECIPE.scaled(0.25)
    assert short.sha256_until(1) != RECIPE.sha256_until(1)
    longer = Recipe(**{**vars(RECIPE), "stages": (RECIPE.stages[0], RECIPE.stages[0])})
    assert longer.sha256_until(1) == RECIPE.sha256_until(1)


def test_training_begins_with_an_earlier_adapter_and_goes_on_with_it_after_a_stop(checkpoint, tmp_path):
    first = Trainer(RECIPE, Reader(checkpoint), course(), tmp_path / "first").run(print)
    first.save(tmp_path / "first.safetensors", {})
    begun = Trainer(RECIPE, Reader(checkpoint), course(), tmp_path / "second", tmp_path / "first.safetensors")
    for name, (_, up) in first.adapter.items():
        torch.testing.assert_close(begun.adapter.state()[name][1], up.to(torch.bfloat16).float())
    whole = begun.run(print)
    again = Trainer(RECIPE, Reader(checkpoint), course(), tmp_path / "second", tmp_path / "first.safetensors").run(
        print
    )
    for name, (_, up) in whole.adapter.items():
        torch.testing.assert_close(again.adapter[name][1], up)
    with pytest.raises(DirectionsMismatchError):
        Trainer(RECIPE, Reader(checkpoint), course(), tmp_path / "second").run(print)


def test_the_projector_learns_names_without_the_language_model():
    chance = torch.Generator().manual_seed(0)
    targets = torch.randn(5, 16, generator=chance)
    shown = torch.arange(5).repeat_interleave(8)
    prototypes = torch.randn(5, 12, generator=chance)
    features = prototypes[shown][:, None] + 0.3 * torch.randn(40, 9, 12, generator=chance)
    projector = start_projector(features, shown, targets, steps=120, seed=0)
    with torch.no_grad():
        said = projector(features).mean(1)
    found = (
        functional.normalize(said - targets.mean(0), dim=-1) @ functional.normalize(targets - targets.mean(0), dim=-1).T
    )
    assert (found.argmax(1) == shown).float().mean() > 0.9


def test_lessons_are_the_same_for_the_same_step_and_other_for_another():
    lessons, stage = course().lessons, RECIPE.stages[1]
    assert lessons.draw(stage, 3) == lessons.draw(stage, 3)
    assert lessons.draw(stage, 3) != lessons.draw(stage, 4)
    assert sum(asked.picture is None for asked in lessons.draw(stage, 0)) == stage.chats
    captions = lessons.draw(RECIPE.stages[0], 0)
    assert all(asked.picture is not None for asked in captions)


def test_no_place_among_two_things_is_the_likelier():
    stage = Stage("compare", 3, pictures=2, questions=3, chats=0, projector_rate=1e-3)
    talks = course().lessons.draw(stage, 0)
    for one, other, _ in (talks[:3], talks[3:]):
        assert one.question != other.question
        assert sorted(one.question) == sorted(other.question)
        assert (one.answer, one.picture) == (other.answer, other.picture)


def test_pack_shares_the_system_prompt(checkpoint):
    reader = Reader(checkpoint)
    talks = course().lessons.draw(RECIPE.stages[1], 0)
    alone = sum(pack(reader, [talk]).tokens.shape[1] for talk in talks)
    assert pack(reader, talks).tokens.shape[1] < alone


@pytest.mark.parametrize("form", SHARES)
def test_every_form_of_question_is_answered_rightly(form):
    questions, rng = Questions(KNOWN, {KNOWN[0].name: [("What for?", "For cheese.")]}), random.Random(0)
    for shown in KNOWN[:40]:
        question = questions.draw(shown, rng, forms=[form])
        assert "{" not in question.text + question.answer
        if form in {"choice", "list", "name"}:
            assert shown.named_in(question.answer)
        if form in {"choice", "list"}:
            assert shown.name in question.text
            assert " or " in question.text


def test_no_lesson_is_harmful_and_no_answer_refuses():
    harmful = [concept for concept in concepts() if concept.harmful]
    for size in RECIPES:
        if not answers_file(size).exists():
            continue
        said = {**chat_answers(size)}
        said |= {question: answer for pairs in facts(size).values() for question, answer in pairs}
        assert set(chat_answers(size)) <= set(chat_prompts())
        assert not [answer for answer in said.values() if sounds_like_refusal(answer)]
        assert not set(facts(size)) - {concept.name for concept in KNOWN}
    assert not [concept for concept in harmful if concept in KNOWN]
    questions, rng = Questions(KNOWN, {}), random.Random(0)
    answers = [questions.draw(rng.choice(KNOWN), rng).answer for _ in range(400)]
    assert not [answer for answer in answers if sounds_like_refusal(answer)]
