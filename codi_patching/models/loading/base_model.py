"""Config and tokenizer of the model that a checkpoint was trained from."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast

from codi_patching.models.families import FAMILIES, Family
from codi_patching.models.loading import hub
from codi_patching.models.loading.files import CheckpointError, first_line


def read_base_model(
    base_model: str, beside: Path
) -> tuple[PreTrainedConfig, PreTrainedTokenizerFast]:
    """Config and tokenizer of a base model.

    Args:
        base_model: A folder, or an id on the Hub.
        beside: The checkpoint's folder: a tokenizer in it, to which training added tokens, comes
            before the base model's.

    Raises:
        CheckpointError: They cannot be had, or there is no fast tokenizer with an eos token.
    """
    local = Path(base_model).is_dir() or not hub.is_hub_id(base_model)
    folder = base_model if local else hub.fetch_base_model(base_model)
    own_tokenizer = (beside / "tokenizer.json").is_file()
    try:
        config = AutoConfig.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(beside if own_tokenizer else folder)
    except Exception as error:  # transformers raises what it happens to stumble over
        raise CheckpointError(
            f"expected {base_model} to be a Hugging Face id or a folder with config and "
            f"tokenizer ({first_line(error)}): set [[model.base_model]]"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"expected {base_model} to have a fast tokenizer with an eos token, got "
            f"{type(tokenizer).__name__}: set [[model.base_model]]"
        )
    return config, tokenizer


def family_for(config: PreTrainedConfig, base_model: str) -> Family:
    """The family of a base model.

    Raises:
        CheckpointError: It is not supported.
    """
    if config.model_type not in FAMILIES:
        raise CheckpointError(
            f"{base_model} is of the family {config.model_type!r}; expected one of "
            f"{', '.join(FAMILIES)}: set [[model.base_model]]"
        )
    return FAMILIES[config.model_type]


def vocabulary_rows(
    config: PreTrainedConfig, weights: dict[str, Tensor], family: Family, base_model: str
) -> int:
    """Rows of a checkpoint's embeddings.

    Raises:
        CheckpointError: It has none under the base model's names.
    """
    embeddings = weights.get(f"{family.embeddings}.weight")
    if embeddings is None:
        raise CheckpointError(
            f"the checkpoint has no embeddings under the names of the family {config.model_type!r} "
            f"({family.embeddings}.weight), which {base_model} is of: set [[model.base_model]] to "
            "the model it was trained from"
        )
    return embeddings.shape[0]


def named_ids(
    tokenizer: PreTrainedTokenizerFast, names: tuple[str, ...], rows: int
) -> list[int] | None:
    """Ids of special tokens that the tokenizer knows by name; None if it lacks one.

    Raises:
        CheckpointError: The checkpoint has no row for one.
    """
    vocabulary = tokenizer.get_vocab()
    if any(name not in vocabulary for name in names):
        return None
    ids = [vocabulary[name] for name in names]
    if max(ids) >= rows:
        raise CheckpointError(
            f"expected embeddings of at least {max(ids) + 1} tokens, for the tokenizer's "
            f"{', '.join(names)}, got {rows}: set [[model.base_model]] to the checkpoint's own"
        )
    return ids
