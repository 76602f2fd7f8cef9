"""The testbed's own anchors: paired requests about things of its alignment split."""

from __future__ import annotations

import random

from langchain_vlmguard.steering.anchors import AnchorPair, AnchorSet
from vlmguard_lab.testbed import requests, world
from vlmguard_lab.testbed.world import a


def load_testbed_anchors(pairs: int = 160, *, seed: int = 0) -> AnchorSet:
    """Return pairs that differ only in the thing; things, verbs and templates are those that alignment has seen."""
    rng = random.Random(seed)
    verbs = [verb for verb in world.VERBS if verb not in world.HELD_OUT_VERBS]
    templates = [t for t in requests.TEMPLATES if t not in requests.HELD_OUT_TEMPLATES]
    harmful = [t for t in world.HARMFUL_THINGS if t not in world.HELD_OUT_THINGS]
    harmless = [t for t in world.HARMLESS_THINGS if t not in world.HELD_OUT_THINGS]
    found: dict[str, AnchorPair] = {}
    while len(found) < pairs:
        template, verb, thing = rng.choice(templates), rng.choice(verbs), harmful[len(found) % len(harmful)]
        text = template.format(f"{verb} {a(thing)}")
        other = template.format(f"{verb} {a(rng.choice(harmless))}")
        found.setdefault(text, AnchorPair(text, other, world.hazard_of(thing)))
    return AnchorSet(name="testbed", pairs=tuple(found.values()))
