"""Config and tokenizer of the model that a checkpoint was trained from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast

from codi_patching.models.families import FAMILIES, Family
from codi_patching.models.loading import config as config_files
from codi_patching.models.loading import hub
from codi_patching.models.loading.files import CheckpointError, in_one_line
from codi_patching.models.strict_json import read_object

_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class BaseModel:
    """What a checkpoint in a layout of others needs of the model it was trained from.

    Attributes:
        name: Its folder or id, as it was given.
        config: Its config, before the vocabulary grew.
        tokenizer: Of questions and answers; the checkpoint's own where it has one.
    """

    name: str
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerFast

    @property
    def family(self) -> Family:
        """Where the parts of its decoder are."""
        return FAMILIES[self.config.model_type]


def read_base_model(base_model: str, beside: Path) -> BaseModel:
    """Config and tokenizer of a base model.

    Args:
        base_model: A folder, or an id on the Hub.
        beside: The checkpoint's folder: a tokenizer in it, to which training added tokens, comes
            before the base model's.

    Raises:
        CheckpointError: They cannot be had, or there is no fast tokenizer with an eos token.
    """
    local = Path(base_model).is_dir() or not hub.is_hub_id(base_model)
    folder = Path(base_model if local else hub.fetch_base_model(base_model))
    if not (folder / config_files.FILE).is_file():
        raise CheckpointError(
            f"expected {base_model} to be a Hugging Face id or a folder with {config_files.FILE} "
            "and tokenizer: set [[model.base_model]]"
        )
    config = config_files.read_config(folder, "model.base_model")
    tokenizer = _read_tokenizer(beside if (beside / _TOKENIZER).is_file() else folder)
    return BaseModel(base_model, config, tokenizer)


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, none of whose code runs."""
    path = folder / "tokenizer_config.json"
    settings: dict[str, Any] = {}
    try:
        settings = read_object(path) if path.is_file() else {}
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises what it happens to stumble over
        of_code = "its auto_map asks for code of the folder, and none is run"
        reason = of_code if settings.get("auto_map") else in_one_line(error)
        raise CheckpointError(
            f"expected {folder} to hold a tokenizer: {reason}: set [[model.base_model]]"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"expected {folder} to hold a fast tokenizer with an eos token, got "
            f"{type(tokenizer).__name__} with {tokenizer.eos_token}: set [[model.base_model]]"
        )
    return tokenizer


def vocabulary_rows(base: BaseModel, weights: dict[str, Tensor]) -> int:
    """Rows of a checkpoint's embeddings.

    Raises:
        CheckpointError: It has none under the base model's names.
    """
    name = f"{base.family.embeddings}.weight"
    embeddings = weights.get(name)
    if embeddings is None or embeddings.ndim != 2:
        raise CheckpointError(
            f"the checkpoint has no embeddings under the names of the family "
            f"{base.config.model_type!r} ({name}), which {base.name} is of: set "
            "[[model.base_model]] to the model it was trained from"
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
