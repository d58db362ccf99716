"""Words that a tokenizer does not know, which a model reads but never learned; control tokens."""

from __future__ import annotations

import json
import re
from functools import lru_cache

from transformers import PreTrainedTokenizerFast

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_MARK = re.compile(r"[<\[].*[>\]]")


def unknown_words(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """Words of a text that the tokenizer does not know, each once, in order.

    Unknown are tokens that stand for anything (`unk`), bytes of a tokenizer that falls back to
    them, and in a tokenizer of whole words (without merges) every word that it has to spell.
    """
    backend = tokenizer.backend_tokenizer
    encoding = backend.encode(text, add_special_tokens=False)
    spelled = set()
    if _is_word_level(tokenizer):
        of_word = [word for word in encoding.word_ids if word is not None]
        spelled = {word for word in of_word if of_word.count(word) > 1}
    found: dict[str, None] = {}
    for token, word, (start, end) in zip(encoding.tokens, encoding.word_ids, encoding.offsets):
        unknown = word in spelled or token == tokenizer.unk_token or _BYTE.fullmatch(token)
        if unknown and word is not None:
            start, end = encoding.word_to_chars(word)
        if unknown:
            found[text[start:end].strip()] = None
    return list(found)


def control_tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """Control tokens, such as `<|endoftext|>`, that a text names or would become, each once."""
    control = _control_names(tokenizer)
    read = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).tokens
    become = set(read) - {tokenizer.unk_token}
    return [name for name in control if name in text or name in become]


@lru_cache(maxsize=8)
def _control_names(tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    """Special tokens, and others that were added and are no words, such as `<tool_call>`."""
    added = tokenizer.added_tokens_decoder.values()
    return tuple(sorted(t.content for t in added if t.special or _MARK.fullmatch(t.content)))


@lru_cache(maxsize=8)
def _is_word_level(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether every token is a whole word or what spells one."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return model["type"] == "WordLevel" or (model["type"] == "BPE" and not model["merges"])
