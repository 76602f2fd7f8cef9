"""A smoke run of the real build: every stage, a resume, and the finished checkpoint."""

import json
from dataclasses import replace

import pytest
import torch

from langchain_vlmguard.models.guard_files import DIRECTIONS_FILE, FOLDER
from langchain_vlmguard.models.loading import load_vlm
from langchain_vlmguard.steering.encoding import Prompt, encode_prompts
from vlmguard_lab.testbed.architectures import ARCHITECTURES, IMAGE_TOKENS
from vlmguard_lab.testbed.build import IGNORED, Builder
from vlmguard_lab.testbed.corpus import Example, captions
from vlmguard_lab.testbed.recipes import Recipe, Stage
from vlmguard_lab.testbed.release import release
from vlmguard_lab.testbed.requests import Picture

pytestmark = pytest.mark.lab

SMOKE = Recipe(
    hidden=32,
    layers=2,
    heads=2,
    vision_hidden=32,
    vision_layers=1,
    variants=2,
    stages=(
        *(Stage(name, 3, 4, 1e-3) for name in ("pretrain", "align", "see", "caption")),
        Stage("instruct", 3, 4, 1e-3, blend=0.5),
    ),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    builder = Builder(SMOKE, folder)
    builder.run()
    return folder, builder


def test_every_stage_trains_its_own_parts(built):
    folder, _ = built
    stages = {
        name: torch.load(folder / f"{name}.pt", weights_only=True)
        for name in ("pretrain", "align", "see", "caption", "instruct")
    }

    def changed(before, after, part):
        names = [name for name in stages[before] if part in name]
        assert names
        return any(not torch.equal(stages[before][name], stages[after][name]) for name in names)

    assert changed("pretrain", "align", "language_model")
    assert not changed("pretrain", "align", "vision_tower")
    for before, after in (("align", "see"), ("see", "caption")):
        assert not changed(before, after, "language_model")
        assert changed(before, after, "vision_tower")
        assert changed(before, after, "multi_modal_projector")
    assert changed("caption", "instruct", "language_model")
    assert not changed("caption", "instruct", "vision_tower")


def test_a_finished_build_is_not_repeated_and_a_stopped_one_goes_on(built, monkeypatch):
    folder, builder = built
    again = Builder(SMOKE, folder)
    (folder / "instruct.pt").unlink()
    trained = []
    monkeypatch.setattr(again, "_train", lambda stage, _progress: trained.append(stage.name))
    again.run()
    assert trained == ["instruct"]
    torch.save(builder.model.state_dict(), folder / "instruct.pt")


def test_a_stage_stopped_half_way_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    recipe = replace(SMOKE, stages=(Stage("pretrain", 4, 4, 1e-3),))
    whole = Builder(recipe, tmp_path / "whole").run().state_dict()
    monkeypatch.setattr("vlmguard_lab.testbed.build.CHECKPOINT_EVERY", 2)
    stopped = Builder(recipe, tmp_path / "stopped")
    sampler, calls = stopped._language_losses, []

    def stop_after_two(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return sampler(*args)

    monkeypatch.setattr(stopped, "_language_losses", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = Builder(recipe, tmp_path / "stopped").run().state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_stages_of_another_recipe_are_not_continued(built):
    folder, _ = built
    with pytest.raises(ValueError, match="stages of another recipe"):
        Builder(replace(SMOKE, seed=1), folder)


def test_the_finished_checkpoint_loads_like_any_other(built, tmp_path, monkeypatch):
    _, builder = built
    monkeypatch.setattr("vlmguard_lab.testbed.release.KEPT_PICTURES", 4)
    facts = release(builder.model, builder.processor, SMOKE, tmp_path / "weights", n=2, seconds=1.0)
    loaded = load_vlm(str(tmp_path / "weights"))
    assert loaded.directions is not None
    assert (tmp_path / "weights" / FOLDER / DIRECTIONS_FILE).is_file()
    assert json.loads((tmp_path / "weights" / "card.json").read_text()) == json.loads(json.dumps(facts))
    assert facts["weights_sha256"] in (tmp_path / "weights" / "README.md").read_text()
    assert not (tmp_path / "weights.tmp").exists()


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "llava"])
def test_another_architecture_is_built_of_the_same_world(architecture, tmp_path):
    recipe = replace(SMOKE, architecture=architecture, stages=tuple(replace(s, steps=1) for s in SMOKE.stages))
    builder = Builder(recipe, tmp_path / "stages")
    builder.run().save_pretrained(tmp_path / "weights")
    builder.processor.save_pretrained(tmp_path / "weights")
    loaded = load_vlm(str(tmp_path / "weights"))
    assert loaded.model.config.model_type == architecture
    example = Example("a kite .", "what is this ?", picture=Picture("icon", "kite"))
    prompt = Prompt(example.prompt, example.picture.draw())
    seen = builder.encode([example])
    assert (seen["input_ids"] == builder.encode.tokenizer.convert_tokens_to_ids("<image>")).sum() == IMAGE_TOKENS
    asked = encode_prompts(loaded.processor, [prompt])
    length = asked["input_ids"].shape[1]
    assert torch.equal(asked["input_ids"][0], seen["input_ids"][0, :length])
    assert (seen["labels"][0, :length] == IGNORED).all()
    assert torch.allclose(asked["pixel_values"], seen["pixel_values"], atol=0.01)


def test_loss_is_taken_on_answers_only(built):
    _, builder = built
    batch = builder.encode([Example("yes , a kite .", "what is it ?")])
    labelled = batch["labels"][0] != IGNORED
    assert builder.processor.tokenizer.decode(batch["labels"][0][labelled]).strip() == "yes , a kite .<end>"


def test_the_same_subject_is_drawn_in_at_most_so_many_variants(built):
    _, builder = built
    rows = builder.encode.pool.pixels([Picture("icon", "kite", seed=seed) for seed in range(10)])["pixel_values"]
    assert rows.shape == (10, 3, 48, 48)
    assert len({row.numpy().tobytes() for row in rows}) == SMOKE.variants


def test_captions_hold_no_requests():
    import random

    examples = [captions(random.Random(seed)) for seed in range(300)]
    assert {example.prompt for example in examples} == {"what is this ?", "what does the picture say ?"}
