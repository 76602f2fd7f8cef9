"""Projected gradient descent on a picture, against model, gate and intervention together."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from langchain_core.messages import HumanMessage

from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.steering.encoding import encode_texts
from vlmguard_lab.evaluation.attacks.objective import Batch, attack_loss
from vlmguard_lab.testbed.requests import png_base64

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from langchain_vlmguard.models.chat_format import ChatRow
    from langchain_vlmguard.models.loading import LoadedVLM
    from langchain_vlmguard.rewriting.adapter import RewriterAdapter
    from langchain_vlmguard.steering.attachment import Attachment

_LEVELS = 255
_IMAGE_DIMENSIONS = 4


@dataclass(frozen=True)
class PixelBudget:
    """What an attacker may do to a picture."""

    eps: int
    """Most that a channel of a pixel may change, in 255ths."""

    steps: int = 40
    """Gradient steps."""

    @property
    def step(self) -> float:
        """Length of a step in 255ths: the whole budget can be crossed a few times."""
        return max(1.0, 4.0 * self.eps / self.steps)


@dataclass(frozen=True, eq=False)
class AttackedPictures:
    """What came of an attack."""

    pictures: list[Image]
    """Attacked pictures of the size that the model sees, 8 bits a channel: no rounding is left to undo them."""

    before: list[Image]
    """The same pictures of that size before the attack."""

    curve: list[float]
    """Mean loss of the rows after each step, the start first."""


def attack_pictures(
    loaded: LoadedVLM,
    rows: Sequence[ChatRow],
    wanted: Sequence[str],
    budget: PixelBudget,
    *,
    defence: Attachment | None = None,
    refuse_at: float | None = None,
    adapter: RewriterAdapter | None = None,
    admitted: Sequence[str] = (),
    seed: int = 0,
) -> AttackedPictures:
    """Change the pictures of some prompts so that the defended model gives the wanted answers.

    PGD with sign steps from a random start inside the ball, on the picture as the model's processor hands it over; the result
    is rounded to whole 255ths inside the ball.

    Args:
        loaded: The model.
        rows: Prompts with one picture each.
        wanted: The complying answer of each.
        budget: Ball and steps.
        defence: What the attacker knows to be in place; the plain model is attacked without.
        refuse_at: See `attack_loss`.
        adapter: The rewriter's adapter, where a rewriter on the same weights is shown the same prompts first.
        admitted: What the rewriter would write of each prompt if it let it go on unchanged.
        seed: Of the random start.

    Raises:
        EvaluationError: The processor does not hand pictures over as `(rows, channels, height, width)`.
    """
    batch = encode_batch(loaded, rows, wanted, defence, admitted)
    scale = PixelScale.of(loaded, batch.inputs.get("pixel_values"))
    start = (scale.to_levels(batch.inputs["pixel_values"])).round().clamp(0, _LEVELS)
    generator = torch.Generator().manual_seed(seed)
    noise = (2 * torch.rand(start.shape, generator=generator) - 1) * budget.eps
    levels = _inside((start + noise).to(start.device), start, budget.eps)
    curve = []
    for _ in range(budget.steps):
        loss, gradient = _gradient(loaded, batch, scale, levels, defence, refuse_at, adapter)
        curve.append(float(loss.mean()))
        levels = _inside(levels - budget.step * gradient.sign(), start, budget.eps)
    levels = _inside(levels.round(), start, budget.eps)
    curve.append(float(_gradient(loaded, batch, scale, levels, defence, refuse_at, adapter)[0].mean()))
    return AttackedPictures(_as_pictures(levels), _as_pictures(start), curve)


def beside(picture: Image, text: str) -> HumanMessage:
    """Return a request beside a picture as a message."""
    block = {"type": "image", "base64": png_base64(picture), "mime_type": "image/png"}
    return HumanMessage([block, {"type": "text", "text": text}])


def encode_batch(
    loaded: LoadedVLM,
    rows: Sequence[ChatRow],
    wanted: Sequence[str],
    defence: Attachment | None,
    admitted: Sequence[str] = (),
) -> Batch:
    """Encode prompts and wanted answers for the attack's objective."""
    device = loaded.model.device

    def encoded(texts: Sequence[str], pictures: Sequence[Sequence[Image]] = ()) -> dict[str, Tensor]:
        return {k: v.to(device) for k, v in encode_texts(loaded.processor, texts, pictures).items()}

    def answers(texts: Sequence[str]) -> Tensor:
        tokenizer = loaded.processor.tokenizer
        ids = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in texts]
        width = max(map(len, ids))
        return torch.tensor([row + [-100] * (width - len(row)) for row in ids], device=device)

    reads = defence is not None and defence.needs_text_query
    return Batch(
        encoded([row.text for row in rows], [row.pictures for row in rows if row.pictures]),
        answers(wanted),
        torch.tensor([bool(row.pictures) for row in rows]),
        encoded([row.text_only for row in rows]) if reads else None,
        answers(admitted) if admitted else None,
    )


@dataclass(frozen=True, eq=False)
class PixelScale:
    """How a processor's pixel values follow from 255ths: `(levels / 255 - mean) / std`, channel by channel."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, loaded: LoadedVLM, pixels: Tensor | None) -> PixelScale:
        """Read the scale from the processor.

        Raises:
            EvaluationError: Its pixel values are no picture of the usual shape.
        """
        if pixels is None or pixels.ndim != _IMAGE_DIMENSIONS:
            shape = None if pixels is None else tuple(pixels.shape)
            msg = (
                f"{type(loaded.processor).__name__} hands pictures over as {shape}, not as (rows, channels, height, width): "
                "the pixel attack is built for LLaVA's family"
            )
            raise EvaluationError(msg)
        steps = loaded.processor.image_processor
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (steps.image_mean, steps.image_std))
        return cls(mean.to(pixels.device), std.to(pixels.device))

    def to_levels(self, pixels: Tensor) -> Tensor:
        """Return 255ths."""
        return (pixels * self.std + self.mean) * _LEVELS

    def to_pixels(self, levels: Tensor) -> Tensor:
        """Return the model's input."""
        return (levels / _LEVELS - self.mean) / self.std


def _gradient(
    loaded: LoadedVLM,
    batch: Batch,
    scale: PixelScale,
    levels: Tensor,
    defence: Attachment | None,
    refuse_at: float | None,
    adapter: RewriterAdapter | None,
) -> tuple[Tensor, Tensor]:
    varied = levels.detach().requires_grad_()
    changed = replace(batch, inputs={**batch.inputs, "pixel_values": scale.to_pixels(varied)})
    with frozen(loaded), torch.enable_grad():
        loss = attack_loss(loaded.model, changed, defence, refuse_at=refuse_at, adapter=adapter).total
        (gradient,) = torch.autograd.grad(loss.sum(), varied)
    return loss.detach(), gradient


def _inside(levels: Tensor, start: Tensor, eps: int) -> Tensor:
    return torch.clamp(levels, start - eps, start + eps).clamp(0, _LEVELS)


def _as_pictures(levels: Tensor) -> list[Image]:
    from PIL import Image as Pictures

    rows = levels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Pictures.fromarray(row, "RGB") for row in rows]


@contextmanager
def frozen(loaded: LoadedVLM) -> Iterator[None]:
    """Take no gradients of weights inside the block, and hold the model's lock."""
    asking = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    with loaded.engine.lock:
        for parameter in asking:
            parameter.requires_grad = False
        try:
            yield
        finally:
            for parameter in asking:
                parameter.requires_grad = True
