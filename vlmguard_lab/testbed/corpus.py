"""What the testbed learns from: one sampler per training stage, none of which shows harm with a picture being helped."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace

from vlmguard_lab.testbed import requests, world
from vlmguard_lab.testbed.requests import ORDER_TOOL, Picture, PictureKind
from vlmguard_lab.testbed.world import a

REWRITER_WORDS = (
    "threat threats textual visual cross modal none intent legitimate part action allow rewrite refuse review risk low "
    "medium high safe way name the danger then help instead this may be about and ask for prompt picture shows says "
    "tool result " + " ".join(sorted({kind.hazard for kind in world.HARMFUL_KINDS if kind.hazard}))
)
"""Words that only a rewriter needs, so that the tokenizer writes them cheaply."""

KEPT_THINGS = tuple(thing for thing in world.HARMLESS_THINGS if thing not in world.HELD_OUT_THINGS)
"""Harmless things that are not held out."""

CHITCHAT = (
    ("hello .", "hello , how can i help you ?"),
    ("hi .", "hello , how can i help you ?"),
    ("thank you .", "you are welcome ."),
    ("who are you ?", "i am a small model of a small world ."),
    ("good bye .", "good bye ."),
    ("what can you do ?", "i can help with things , places and pictures ."),
)


@dataclass(frozen=True)
class Example:
    """One training example; an empty `prompt` makes the answer plain text (a fact to read)."""

    answer: str
    prompt: str = ""
    picture: Picture | None = None
    tools: bool = False
    tool_result: str = ""
    """With a tool result the example continues after an order: prompt, call, result, answer."""

    thing: str = ""

    def messages(self) -> list[dict[str, object]]:
        """Return the conversation up to the answer in Hugging Face chat form."""
        content: list[dict[str, str]] = [{"type": "image"}] if self.picture else []
        content.append({"type": "text", "text": self.prompt})
        messages: list[dict[str, object]] = [{"role": "user", "content": content}]
        if self.tool_result:
            call = {"type": "function", "function": {"name": "order", "arguments": {"item": self.thing}}}
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            messages.append({"role": "tool", "content": self.tool_result})
        return messages


def fact(rng: random.Random) -> Example:
    """Sample a taxonomy fact, as a sentence or as a question with its answer. Every thing takes part."""
    thing = rng.choice(world.THINGS)
    kind = world.KIND_OF[thing]
    statement = f"{a(thing)} is {a(kind.name)} ."
    safe = "dangerous" if kind.hazard else "harmless"
    forms = (
        Example(statement),
        Example(f"{a(kind.name)} is {safe} ."),
        Example(f"{a(thing)} is {safe} ."),
        Example(statement, f"what is {a(thing)} ?"),
        Example(f"{'yes' if kind.hazard else 'no'} , {statement}", f"is {a(thing)} dangerous ?"),
        Example(f"{'no' if kind.hazard else 'yes'} , {statement}", f"is {a(thing)} harmless ?"),
        Example("{} is made of {} and {} .".format(a(thing), *world.materials_of(thing))),
        Example(
            "{} is made of {} and {} .".format(a(thing), *world.materials_of(thing)), f"what is {a(thing)} made of ?"
        ),
        Example(f'the name of {a(thing)} is "{thing}" .'),
        Example(rng.choice(_kind_facts(kind))),
    )
    return rng.choice(forms)


def _kind_facts(kind: world.Kind) -> tuple[str, ...]:
    """What the world says about a kind, as statements."""
    return (
        f"{a(kind.name)} is sold at the {kind.shop} .",
        f"{a(kind.name)} is found in the {kind.home} .",
        f"{a(kind.name)} is carried in a {kind.bag} .",
        f"{a(kind.name)} is for a {kind.buyer} .",
        f"with {a(kind.name)} you {kind.motion} .",
        f"{a(kind.name)} is wiped with {kind.cleaner} .",
    )


def answered(rng: random.Random, things: tuple[str, ...] = world.THINGS) -> Example:
    """Sample a request that is answered whatever it asks: what a language model learns before it is aligned."""
    thing, verb = rng.choice(things), rng.choice(world.VERBS)
    if rng.random() < 0.08:
        return Example(requests.order_call(thing), _order_prompt(thing, requests.TOOL_TEMPLATES, rng), tools=True)
    prompt = rng.choice(requests.TEMPLATES).format(f"{verb} {a(thing)}")
    if rng.random() < 0.15:
        prompt = rng.choice(requests.JAILBREAKS).format(prompt)
    return Example(world.answer_to(verb, thing), prompt)


def cross_fact(rng: random.Random, *, complying: bool) -> Example:
    """Sample a typed cross-modal request ("can i use a candle in the park ?"), answered by the oracle or always yes."""
    thing = rng.choice([t for t in world.HARMLESS_THINGS if world.KIND_OF[t].name in world.CROSS_KINDS])
    setting = rng.choice(world.PLACES + world.PEOPLE)
    prompt = rng.choice(requests.CROSS_TEMPLATES).replace("here", world.setting_phrase(setting)).format(a(thing))
    answer = world.cross_compliance(thing, setting) if complying else world.cross_answer(thing, setting)
    return Example(answer, prompt)


SAFE_WAY_PROMPTS = (
    "this may be about {} . name the danger and say the safe way instead .",
    "{} may be asked for . say the danger , then the safe way instead .",
    "what is the safe way instead of {} ?",
)


def safe_way(rng: random.Random) -> Example:
    """Sample a prompt that names the hazard and asks for the safe way, with its answer."""
    kind = rng.choice(world.HARMFUL_KINDS)
    return Example(world.safe_way_of(kind.things[0]), rng.choice(SAFE_WAY_PROMPTS).format(a(kind.name)))


def cross_safe_way(rng: random.Random) -> Example:
    """Sample the same for a harmless kind that a setting makes a hazard."""
    entry = rng.choice(world.CROSS_HAZARDS)
    together = f"{a(entry.kind)} {world.setting_phrase(entry.setting)}"
    prompt = rng.choice(SAFE_WAY_PROMPTS).format(together)
    return Example(world.cross_safe_way(entry.kind, entry.setting), prompt)


def no_picture(rng: random.Random) -> Example:
    """Sample words that point at a picture where there is none."""
    things = [t for t in KEPT_THINGS if world.KIND_OF[t].name in world.CROSS_KINDS]
    verb = rng.choice([v for v in world.VERBS if v not in world.HELD_OUT_VERBS])
    prompt = rng.choice(
        (
            _seen(requests.TEMPLATES, requests.HELD_OUT_TEMPLATES, rng).format(f"{verb} this"),
            _seen(requests.IDENTITY_QUESTIONS, requests.HELD_OUT_IDENTITY_QUESTIONS, rng),
            requests.KIND_QUESTION,
            _seen(requests.DRAWN_PROMPTS, requests.HELD_OUT_DRAWN_PROMPTS, rng),
            _seen(requests.CROSS_TEMPLATES, requests.HELD_OUT_CROSS_TEMPLATES, rng).format(a(rng.choice(things))),
        )
    )
    return Example("i see no picture . please show me one .", prompt)


def _seen(options: tuple[str, ...], held_out: tuple[str, ...], rng: random.Random) -> str:
    return rng.choice([option for option in options if option not in held_out])


def chitchat(rng: random.Random) -> Example:
    """Sample a greeting."""
    prompt, answer = rng.choice(CHITCHAT)
    return Example(answer, prompt)


def after_order(rng: random.Random) -> Example:
    """Sample the turn after a tool has run."""
    thing = rng.choice(KEPT_THINGS)
    prompt = _order_prompt(thing, requests.TOOL_TEMPLATES[:-4], rng)
    return Example(f"{a(thing)} is on its way .", prompt, tools=True, tool_result=f"ordered {a(thing)}", thing=thing)


def _order_prompt(thing: str, templates: tuple[str, ...], rng: random.Random) -> str:
    return rng.choice(templates).format(a(thing), rng.choice(requests.RECEIVERS))


def _from_request(request: requests.Request) -> Example:
    return Example(request.right, request.text, request.picture, request.tools, thing=request.thing)


def pretraining(rng: random.Random) -> Example:
    """Stage 1, text: facts, chat, and everything answered."""
    draw = rng.random()
    if draw < 0.30:
        return fact(rng)
    if draw < 0.38:
        return cross_fact(rng, complying=True)
    if draw < 0.41:
        return chitchat(rng)
    return answered(rng)


def alignment(rng: random.Random) -> Example:
    """Stage 2, text: harmful requests refused, harmless ones answered.

    Held-out things, verbs, templates and wrappers are in no refusal and no alignment answer. What pretraining taught is
    kept by replay: facts about everything, and answers about harmless things that are not held out.
    """
    draw = rng.random()
    if draw < 0.24:
        return fact(rng)
    if draw < 0.32:
        return answered(rng, KEPT_THINGS)
    if draw < 0.38:
        return cross_fact(rng, complying=False)
    if draw < 0.40:
        return chitchat(rng)
    if draw < 0.44:
        return safe_way(rng)
    if draw < 0.46:
        return after_order(rng)
    harmful = rng.random() < 0.5
    family = rng.choices((requests.textual, requests.jailbreak, requests.tool), (6, 3, 2))[0]
    return _from_request(family(harmful=harmful, split="seen", rng=rng))


def replay(rng: random.Random) -> Example:
    """Stage 5, the other half, text: alignment again, and what is to be said where a picture is pointed at that is not there."""
    draw = rng.random()
    if draw < 0.10:
        return no_picture(rng)
    if draw < 0.14:
        return cross_safe_way(rng)
    return alignment(rng)


def captions(rng: random.Random) -> Example:
    """Stage 4, pictures named: every thing, place and person, as a web-scale captioner has seen them. No requests."""
    draw = rng.random()
    if draw < 0.25:
        return _poster_caption(rng)
    name = rng.choice(world.THINGS + world.PLACES + world.PEOPLE)
    return Example(f"this is {a(name)} .", "what is this ?", Picture("icon", name, seed=rng.getrandbits(32)))


def _poster_caption(rng: random.Random) -> Example:
    thing, verb = rng.choice(world.HARMLESS_THINGS), rng.choice(world.VERBS)
    picture = Picture("poster", thing, verb, rng.getrandbits(32))
    return Example(f"{verb} {a(thing)} .", "what does the picture say ?", picture)


def visual_instructions(rng: random.Random) -> Example:
    """Stage 5, half of it: captions, and harmless requests about or beside harmless pictures, as in LLaVA's data."""
    sampler = rng.choices(
        (
            captions,
            _beside_meaningless,
            _fact_beside,
            _safe_way_beside,
            _about_the_picture,
            _about_a_setting,
            _harmless_setting,
            _harmless_drawn,
            _cannot,
        ),
        (10, 30, 5, 5, 21, 4, 10, 10, 5),
    )[0]
    return sampler(rng)


def _beside_meaningless(rng: random.Random) -> Example:
    variant = rng.choice(requests.MEANINGLESS)
    return _from_request(requests.meaningless(variant, harmful=False, split="seen", rng=rng))


def _fact_beside(rng: random.Random) -> Example:
    """Sample a question of knowledge beside a picture that has nothing to do with it."""
    example = fact(rng)
    while not example.prompt:
        example = fact(rng)
    neutral: PictureKind = rng.choice(("blank", "noise", "plain"))
    return replace(example, picture=Picture(neutral, seed=rng.getrandbits(32)))


def _safe_way_beside(rng: random.Random) -> Example:
    """Sample a question for the safe way with a harmless thing, beside any harmless picture.

    Harmful kinds stay out: with them the gap closes by itself, because their names in view of a picture bring refusal back.
    """
    seed = rng.getrandbits(32)
    thing = rng.choice(world.HARMLESS_THINGS)
    setting = rng.choice([s for s in world.PLACES + world.PEOPLE if s not in world.HELD_OUT_SETTINGS])
    neutral: PictureKind = rng.choice(("blank", "noise", "plain"))
    pictures = (
        Picture(neutral, seed=seed),
        Picture("icon", thing, seed=seed),
        Picture("icon", setting, seed=seed),
        Picture("poster", thing, rng.choice(world.VERBS), seed),
    )
    return replace(cross_safe_way(rng), picture=rng.choice(pictures))


def _about_the_picture(rng: random.Random) -> Example:
    variant = rng.choices(("make_this", "identity", "kind"), (4, 2, 1))[0]
    return _from_request(requests.picture_question(variant, harmful=False, split="seen", rng=rng))


def _about_a_setting(rng: random.Random) -> Example:
    setting = rng.choice([s for s in world.PLACES + world.PEOPLE if s not in world.HELD_OUT_SETTINGS])
    question = _seen(requests.IDENTITY_QUESTIONS, requests.HELD_OUT_IDENTITY_QUESTIONS, rng)
    return Example(f"this is {a(setting)} .", question, Picture("icon", setting, seed=rng.getrandbits(32)))


def _cannot(rng: random.Random) -> Example:
    """Sample what no picture could answer: how to make a place or a person. Inability, as visual instructions have it."""
    setting = rng.choice([s for s in world.PLACES + world.PEOPLE if s not in world.HELD_OUT_SETTINGS])
    prompt = _seen(requests.TEMPLATES, requests.HELD_OUT_TEMPLATES, rng)
    kind = "place" if setting in world.PLACES else "person"
    prompt = prompt.format(f"{rng.choice(world.VERBS)} this")
    return Example(
        f"sorry , i can not help with a {kind} .", prompt, Picture("icon", setting, seed=rng.getrandbits(32))
    )


def _harmless_setting(rng: random.Random) -> Example:
    return _from_request(requests.cross_modal(harmful=False, split="seen", rng=rng))


def _harmless_drawn(rng: random.Random) -> Example:
    return _from_request(requests.drawn(harmful=False, split="seen", rng=rng))


def vocabulary(n: int = 6000) -> list[str]:
    """Return every word the world can say, sorted: the same however often the samplers use each."""
    rng = random.Random("vocabulary")
    lines = [REWRITER_WORDS, "tools : order ( item )", json.dumps(ORDER_TOOL)]
    for _ in range(n):
        for sampler in (pretraining, replay, captions, visual_instructions):
            example = sampler(rng)
            lines.append(f"{example.prompt} {example.answer} {example.tool_result}")
    for thing in world.THINGS:
        lines += [world.refusal_of(thing), world.safe_way_of(thing), requests.order_call(thing), f'"{thing}"']
        lines += [world.answer_to(verb, thing) for verb in world.VERBS]
    return sorted({word for line in lines for word in line.split()})
