"""The same steering code on real architectures, randomly initialised: edits land, closed gates and other calls are untouched."""

import pytest
import torch

from langchain_vlmguard import Steering
from langchain_vlmguard.steering.gates import AlwaysOpen, MidpointGate
from langchain_vlmguard.steering.interventions import Amplify
from tests.tiny_models import random_directions, tiny

FAMILIES = [
    "llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "paligemma", "idefics3",
    "smolvlm", "internvl", "mistral3", "mllama", "glm4v", "cohere2_vision",
]  # fmt: skip
ROWS = {
    "input_ids": torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]]),
    "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_steering_on_real_architectures(family):
    model = tiny(family)
    directions = random_directions(model)

    def scores(steering=None):
        options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "output_scores": True}
        options |= {"return_dict_in_generate": True, "pad_token_id": 0}
        if steering is None:
            return torch.stack(model.generate(**ROWS, **options).scores)
        with steering.attach(model, pictured=torch.tensor([False, True])) as call:
            found = torch.stack(model.generate(**ROWS, **options).scores)
        assert [row["picture"] for row in call.trace()] == [False, True]
        return found

    plain = scores()
    strong = Steering(directions, layers=(1,), intervention=Amplify(alpha=20.0), gate=AlwaysOpen())
    shut = Steering(directions, layers=(1, 2), intervention=Amplify(alpha=20.0), gate=MidpointGate(position=1e9))
    assert not torch.allclose(scores(strong)[0], plain[0], atol=1e-5)
    assert torch.equal(scores(shut), plain)
    assert torch.equal(scores(), plain)
