import random

import pytest
from PIL import Image

from vlmguard_lab.testbed import world
from vlmguard_lab.testbed.drawing import NATIVE_SIZE, draw_icon, draw_neutral, draw_poster, icons

WORDS = world.THINGS + world.PLACES + world.PEOPLE + world.VERBS


def small(picture, edge=12):
    return list(picture.resize((edge, edge), Image.Resampling.BOX).tobytes())


def distance(one, other):
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


def test_every_word_of_the_world_has_a_picture_and_no_other_has():
    assert set(icons()) == set(WORDS)


@pytest.mark.parametrize("name", WORDS)
def test_a_seed_draws_the_same_pixels_and_another_draws_others(name):
    one, same, other = (draw_icon(name, rng=random.Random(seed)) for seed in (1, 1, 2))
    assert (one.mode, one.size) == ("RGB", (NATIVE_SIZE, NATIVE_SIZE))
    assert one.tobytes() == same.tobytes() != other.tobytes()


def test_pictures_of_two_words_differ_more_than_two_of_one_word():
    steady = lambda: random.Random(3)  # noqa: E731 - the same jitter for all
    drawn = {name: small(draw_icon(name, rng=steady())) for name in WORDS}
    closest = {
        name: min((distance(drawn[name], drawn[other]), other) for other in WORDS if other != name) for name in WORDS
    }
    least = min(closest.values())
    assert least[0] > 6, least


def test_a_poster_shows_sign_thing_and_letters():
    full = draw_poster("make", "kite", rng=random.Random(0))
    width, height = full.size
    left = full.crop((0, 0, width // 2, int(height * 0.72)))
    right = full.crop((width // 2, 0, width, int(height * 0.72)))
    letters = full.crop((0, int(height * 0.76), width, height)).convert("L")
    assert left.getcolors(100_000) != right.getcolors(100_000)
    dark = sum(count for count, shade in letters.getcolors() if shade < 80)
    assert dark > 150


def test_neutral_pictures():
    assert draw_neutral("blank", rng=random.Random(0)).getcolors() == [(NATIVE_SIZE**2, (255, 255, 255))]
    assert len(draw_neutral("plain", rng=random.Random(0)).getcolors()) == 1
    assert draw_neutral("noise", rng=random.Random(0)).getcolors(1000) is None


def test_an_unknown_word_names_close_ones():
    with pytest.raises(ValueError, match="no picture of 'kit'; close names: kite"):
        draw_icon("kit", rng=random.Random(0))
