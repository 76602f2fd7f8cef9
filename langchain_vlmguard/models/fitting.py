"""`vlmguard fit`: from a model and anchors to a folder that `from_pretrained` finds."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch

from langchain_vlmguard.files import folder_written_whole, write_json, write_text
from langchain_vlmguard.models.fit_card import fit_card, gate_facts
from langchain_vlmguard.models.fitted import FIT_FILE
from langchain_vlmguard.models.guard_files import DIRECTIONS_FILE
from langchain_vlmguard.steering.anchor_reading import AnchorReader
from langchain_vlmguard.steering.directions import AnchorStates, SafetyDirections, card_of
from langchain_vlmguard.steering.edit_trials import COUNT, EditTrials
from langchain_vlmguard.steering.encoding import Prompt
from langchain_vlmguard.steering.gate_head import Frame
from langchain_vlmguard.steering.gates import PlacedGate
from langchain_vlmguard.steering.head_fitting import RequestAnchors, edgy_of, fit_head
from langchain_vlmguard.steering.interventions import Push
from langchain_vlmguard.steering.neutral import neutral_pictures
from langchain_vlmguard.steering.selection import Answerer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from langchain_vlmguard.models.loading import LoadedVLM
    from langchain_vlmguard.steering.anchors import AnchorSet
    from langchain_vlmguard.steering.edit_trials import EditTrial
    from langchain_vlmguard.steering.gate_head import GateHead
    from langchain_vlmguard.verdict.records import Json

    Progress = Callable[[str, int, int], None]

FITTED_ON = 0.75
"""Share of the pairs that directions are fitted on; edits are tried on the others."""

PLOT_FILE = "directions.png"

_TOKEN, _SHOWN = 0.125, 2.0
"""What a token of an answer, and a request beside a picture, cost beside a request as text: roughly, on a CPU."""


@dataclass(frozen=True)
class FitOptions:
    """What a fit may be told."""

    false_alarms: float = 0.05
    """Share of edgy harmless requests for which the gate may open."""

    shown: int = 96
    """Pairs that are also read beside neutral pictures."""

    tried: int = 16
    """Held-out harmful anchors that edits are tried on, half of them beside neutral pictures."""

    tokens: int = 24
    """Tokens of their answers."""

    batch_size: int = 16

    def __post_init__(self) -> None:
        """Check the share.

        Raises:
            ValueError: It is no share.
        """
        if not 0 < self.false_alarms < 1:
            msg = f"false_alarms is a share between 0 and 1, got {self.false_alarms}"
            raise ValueError(msg)


def fit_model(
    loaded: LoadedVLM,
    anchors: AnchorSet,
    out: Path,
    work: Path,
    options: FitOptions | None = None,
    *,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Json:
    """Fit directions, a gate and an edit, and write the folder.

    Args:
        loaded: The model; its own directions play no part.
        anchors: Pairs to fit on.
        out: Folder to write: directions, card, facts and, with the extra `plot`, a figure.
        work: Folder of finished parts; a run that was stopped goes on from there.
        options: Shares and sizes.
        progress: Called with a stage's name, how much of it is done, and of how much.
        say: Called with a sentence about how long it will take.

    Returns:
        The facts on the card.
    """
    fit = _Fit(loaded, anchors, work, options or FitOptions(), progress or (lambda *_: None), say)
    directions, facts = fit.run()
    with folder_written_whole(out) as beside:
        directions.save(beside / DIRECTIONS_FILE)
        drawn = _draw(directions, beside / PLOT_FILE)
        write_json(beside / FIT_FILE, facts)
        write_text(beside / "README.md", fit_card(facts, plot=PLOT_FILE if drawn else None))
    return facts


def _draw(directions: SafetyDirections, file: Path) -> bool:
    try:
        directions.plot().savefig(file, dpi=120)
    except ImportError:
        return False
    return True


class _Fit:
    def __init__(
        self,
        loaded: LoadedVLM,
        anchors: AnchorSet,
        work: Path,
        options: FitOptions,
        progress: Progress,
        say: Callable[[str], None],
    ) -> None:
        self.loaded, self.anchors, self.work, self.options = loaded, anchors, work, options
        self.progress, self.say = progress, say
        self.frame = Frame.of(loaded.processor)
        self.reader = AnchorReader(loaded.model, loaded.processor, self.frame, work, options.batch_size)
        self.started, self.read_texts, self.estimated = time.monotonic(), 0, False

    def run(self) -> tuple[SafetyDirections, Json]:
        """Run every stage."""
        requests = self._requests()
        head = fit_head(
            requests,
            self.frame,
            false_alarms=self.options.false_alarms,
            progress=lambda done, of: self.progress("choosing the gate", done, of),
        )
        fitting, held_out = self.anchors.split(FITTED_ON)
        directions = self._directions(requests, fitting)
        best, trials, plain = self._edit(directions, held_out)
        directions = replace(directions, gate=head).with_choice(_choice(best, head, held_out))
        return directions, self._facts(directions, head, trials, plain)

    def _requests(self) -> RequestAnchors:
        texts = [*self.anchors.harmful, *self.anchors.harmless]
        last, mean = self.reader.read(texts, progress=lambda done: self._estimate(done, len(texts)))
        half = len(self.anchors)
        return RequestAnchors(last[:half], last[half:], mean[:half], mean[half:], edgy_of(self.anchors))

    def _was_read(self, stage: str, done: int, of: int) -> None:
        self.read_texts += done
        self.progress(stage, self.read_texts, of)

    def _estimate(self, done: int, of: int) -> None:
        """Say how long it will take, once the first anchors were read."""
        self._was_read("reading anchors", done, of)
        seconds = time.monotonic() - self.started
        if self.estimated or seconds < 1 or self.read_texts >= of:
            return
        self.estimated = True
        options = self.options
        answers = COUNT * options.tried * (1 + options.tokens * _TOKEN)
        rest = of - self.read_texts + 2 * _SHOWN * options.shown + answers
        self.say(f"about {max(1, round(rest * seconds / self.read_texts / 60))} minutes to go")

    def _directions(self, requests: RequestAnchors, fitting: AnchorSet) -> SafetyDirections:
        row = {pair: at for at, pair in enumerate(self.anchors.pairs)}
        own = torch.tensor([row[pair] for pair in fitting.pairs])
        few = type(fitting)(
            fitting.name, fitting.pairs[:: max(1, len(fitting) // self.options.shown)][: self.options.shown]
        )
        pictures = neutral_pictures()
        texts = [*few.harmful, *few.harmless]
        self.read_texts = 0
        shown, _ = self.reader.read(
            texts, pictures, lambda done: self._was_read("beside neutral pictures", done, len(texts))
        )
        states = AnchorStates(requests.harmful[own], requests.harmless[own], shown[: len(few)], shown[len(few) :])
        card = card_of(self.loaded.model, fitting, "mean", 1, len(pictures), self.loaded.name)
        return SafetyDirections.of_states(states, card)

    def _edit(self, directions: SafetyDirections, held_out: AnchorSet) -> tuple[EditTrial, list[EditTrial], float]:
        count = self.options.tried
        harmful = held_out.harmful[:: max(1, len(held_out) // count)][:count]
        pictures = neutral_pictures(seed=1)
        prompts = [Prompt(text, pictures[at % len(pictures)] if at % 2 else None) for at, text in enumerate(harmful)]
        done = [0]

        def ticked() -> None:
            done[0] += 1
            self.progress("trying edits", done[0], COUNT)

        answer = Answerer(self.loaded.model, self.loaded.processor, self.options.tokens, self.options.batch_size)
        return EditTrials(answer, directions, prompts, self.work / "trials.json", progress=ticked).choose()

    def _facts(self, directions: SafetyDirections, head: GateHead, trials: list[EditTrial], plain: float) -> Json:
        return {
            "model": self.loaded.name,
            "anchors": {"name": self.anchors.name, "pairs": len(self.anchors), "hash": self.anchors.hash},
            "directions": {"hash": directions.hash, "weights_hash": directions.card.weights_hash},
            "gate": {**gate_facts(head), "wanted_false_alarms": self.options.false_alarms},
            "edit": {
                "refused_plain": round(plain, 4),
                "choice": directions.card.choice,
                "trials": [*map(asdict, trials)],
            },
            "options": asdict(self.options),
            "package_version": directions.card.package_version,
            "minutes": round((time.monotonic() - self.started) / 60, 1),
        }


def _choice(best: EditTrial, head: GateHead, held_out: AnchorSet) -> Json:
    return {
        "layers": [best.layer],
        "gate_layer": None,
        "intervention": Push.name,
        "alpha": best.alpha,
        "gate": PlacedGate.name,
        "reads": "request",
        "decode": best.decode,
        "refused": best.refused,
        "opens_on_edgy": round(head.share("edgy"), 4),
        "selection_anchors_hash": held_out.hash,
    }
