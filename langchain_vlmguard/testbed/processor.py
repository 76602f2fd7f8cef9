"""The testbed's processor: a BPE tokenizer trained on the world's English, a chat template and CLIP's picture steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

if TYPE_CHECKING:
    from collections.abc import Iterable

IMAGE_SIZE = 48
PATCH_SIZE = 8
SPECIAL_TOKENS = ("<pad>", "<end>", "<system>", "<user>", "<assistant>", "<tool>", "<image>")

CHAT_TEMPLATE = """\
{%- if tools %}<system>tools :{% for tool in tools %} {{ tool.function.name }} ( \
{{ tool.function.parameters.properties | join(' , ') }} ){% endfor %}<end>{% endif %}
{%- for message in messages %}<{{ message.role }}>
{%- if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}\
{% endif %}{% endfor %}{% endif %}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<end>{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""

_SET_APART = ((r"\s*\?", " ?"), (r"\s*!", " !"), (r"(?<=[a-z])\s*,", " ,"), (r"\s*\.(?=\s|$)", " ."))


def train_tokenizer(words: Iterable[str], *, vocab_size: int = 1500) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; every text can be written in it, each of `words` as one token.

    Text is lower-cased and sentence marks are set apart, so that "How do I fix a kite?" reads as the world writes it.
    """
    tokenizer = Tokenizer(models.BPE())
    marks = [normalizers.Replace(Regex(pattern), spaced) for pattern, spaced in _SET_APART]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *marks])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106 - a symbol
        eos_token="<end>",  # noqa: S106
        additional_special_tokens=list(SPECIAL_TOKENS[2:]),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Join tokenizer, chat template and a 48 x 48 CLIP image processor into an ordinary `LlavaProcessor`."""
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token="<image>",  # noqa: S106
        num_additional_image_tokens=1,
    )
