"""What may be trained on and what may not, by style, concept and checksum; and the questions that are put to the model."""

import json

import pytest
import torch
from PIL import Image

from vlmguard_lab.reference.concepts import concepts, phrase_of
from vlmguard_lab.reference.features import Tower, change, picture_features
from vlmguard_lab.reference.parts import PICTURES, PartError
from vlmguard_lab.reference.pictures import Picture, open_on_white, read_pictures
from vlmguard_lab.reference.seeing import MEASURES, questions_of

CAT = next(concept for concept in concepts() if concept.name == "cat")
GUN = next(concept for concept in concepts() if concept.name == "gun")
UNSEEN = [concept for concept in concepts() if concept.held_out and not concept.harmful]
SEEN = [concept for concept in concepts() if not concept.held_out and not concept.harmful]


def drawn(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", (24, 16), colour).save(path)
    return path


@pytest.fixture
def work(tmp_path):
    """Small sets of pictures, laid out as the packages are."""
    taken = {style: tmp_path / "taken" / part.folder for style, part in PICTURES.items()}
    listed = []
    names = list(dict.fromkeys(name for concept in concepts() for name in concept.emoji))
    for number, name in enumerate(names):
        listed.append({"short_names": [name], "image": f"{number}.png", "unified": f"1F{number}"})
    home = taken["google"] / "package"
    home.mkdir(parents=True)
    (home / "emoji.json").write_text(json.dumps(listed))
    for name in ("cat", "gun", "grapes", SEEN[5].emoji[0], UNSEEN[0].emoji[0]):
        entry = listed[names.index(name)]
        drawn(home / "img/google/64" / entry["image"])
        drawn(taken["twitter"] / "package/img/twitter/64" / entry["image"], "blue")
        drawn(taken["fluent"] / f"package/assets/{entry['unified'].lower()}.webp", "green")
    clipart = taken["openclipart"] / "usr/share/openclipart/png"
    for number in range(12):
        drawn(clipart / f"animals/cat_{number}.png", (number, 0, 0))
    drawn(clipart / "tools/weapons/cat.png")
    drawn(clipart / "tools/gun_01.png")
    drawn(clipart / "animals/cat_and_dog.png")
    drawn(clipart / "flags/cat.png")
    return tmp_path


def test_styles_concepts_and_checksums_decide_what_is_trained_on(work):
    pictures = read_pictures(work)
    assert {picture.style for picture in pictures} == {"google", "fluent", "twitter", "openclipart"}
    trainable = [picture for picture in pictures if picture.trainable]
    assert not [p for p in trainable if p.style == "twitter" or p.concept.harmful or p.concept.held_out]
    cats = [p for p in pictures if p.style == "openclipart" and p.concept is CAT]
    assert len(cats) == 12, "neither two things at once, nor a folder of weapons, nor a flag"
    assert 0 < sum(p.trainable for p in cats) < 12
    assert [p.path.name for p in pictures if p.style == "openclipart" and p.concept is GUN] == ["gun_01.png"]


def test_missing_sets_say_what_to_run(tmp_path):
    with pytest.raises(PartError, match=r"python -m vlmguard_lab\.reference pictures"):
        read_pictures(tmp_path)


def test_transparent_pixels_are_white(tmp_path):
    assert open_on_white(drawn(tmp_path / "a.png", (0, 0, 0, 0))).getpixel((3, 3)) == (255, 255, 255)


def test_a_changed_picture_is_the_same_for_the_same_seed():
    picture = Image.new("RGB", (40, 20), "red")
    assert change(picture, seed="a").tobytes() == change(picture, seed="a").tobytes()
    assert change(picture, seed="a").tobytes() != change(picture, seed="b").tobytes()


def test_features_are_computed_once(work, checkpoint, monkeypatch):
    pictures, tower = read_pictures(work), Tower(checkpoint)
    first = picture_features(tower, pictures, work / "features")
    assert first.shape == (len(pictures), 4, 24)
    assert first.dtype == torch.float16
    monkeypatch.setattr(tower, "features", None)
    torch.testing.assert_close(picture_features(tower, pictures, work / "features"), first)


@pytest.mark.parametrize("measure", MEASURES)
def test_questions_are_on_the_things_and_styles_that_they_say(work, measure):
    asked = questions_of(measure, read_pictures(work))
    assert asked
    for question in asked:
        assert (question.picture.style == "twitter") == measure.endswith("other_style")
        assert question.picture.concept.held_out == (measure != "named_other_style")
        assert not question.picture.concept.harmful
        assert question.right(f"The picture shows {question.picture.concept.phrase}.")
        assert not question.right("I do not know.")
        if question.wrong:
            assert question.wrong.held_out
            assert not question.right(f"{question.picture.concept.phrase} or {question.wrong.phrase}")


def test_the_same_seed_gives_the_same_questions(work):
    pictures = read_pictures(work)
    one, two = (questions_of("two_way", pictures, limit=1, seed=3) for _ in range(2))
    assert [q.text for q in one] == [q.text for q in two]
    assert len(one) == 1


def test_names_and_synonyms_count_and_parts_of_words_do_not():
    assert CAT.named_in("It is a kitten!")
    assert CAT.named_in("Two cats.")
    assert not CAT.named_in("It is a caterpillar.")
    assert [phrase_of(name) for name in ("owl", "octopus", "grapes", "glass", "unicorn")] == [
        "an owl",
        "an octopus",
        "grapes",
        "a glass",
        "a unicorn",
    ]


def test_concepts_are_many_and_some_are_held_out():
    assert len({concept.name for concept in concepts()}) == len(concepts()) > 700
    assert 0.05 < len(UNSEEN) / (len(UNSEEN) + len(SEEN)) < 0.25
    for concept in UNSEEN:
        last = concept.name.rsplit(maxsplit=1)[-1]
        assert not [other for other in SEEN if other.name.rsplit(maxsplit=1)[-1] == last]


def test_a_picture_of_something_harmful_is_never_trained_on(tmp_path):
    assert not Picture("google", drawn(tmp_path / "a.png"), GUN).trainable
