"""The testbed's words: a BPE tokenizer trained on the world's English, and its chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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


def train_tokenizer(
    words: Iterable[str], *, vocab_size: int = 1500, tokens: dict[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; every text can be written in it, each of `words` as one token.

    Text is lower-cased and sentence marks are set apart, so that "How do I fix a kite?" reads as the world writes it.
    `tokens` are a family's own special tokens by the attribute that names them, e.g. `{"image_token": "<image>"}`.
    """
    named = dict(tokens or {})
    own = [token for token in named.values() if token not in SPECIAL_TOKENS]
    tokenizer = Tokenizer(models.BPE())
    marks = [normalizers.Replace(Regex(pattern), spaced) for pattern, spaced in _SET_APART]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *marks])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *own],
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
        **named,
    )
