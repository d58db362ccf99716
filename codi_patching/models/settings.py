"""What a CODI model needs beyond its backbone."""

from __future__ import annotations

from dataclasses import dataclass

from codi_patching.errors import InputError


@dataclass(frozen=True)
class CodiSettings:
    """What a CODI model needs beyond its backbone; saved as `codi.json`.

    Attributes:
        num_latents: K, the number of latent thoughts.
        bot_ids: Token ids that end the prompt, the last one being "begin of thought".
        eot_ids: Token ids that start the readout, the first one being "end of thought"; models
            trained with eos as a delimiter have eos after it.
        eos_id: Ends the answer.
        answer_prefix: Text between eot and the answer; empty where the answer follows eot.
        raw_question: Whether the question's text is taken as it is; else it is stripped and two
            spaces are made one, once, from the left: CODI's own code makes two of three.
        question_suffix: Text after the question, before bot.
    """

    num_latents: int
    bot_ids: tuple[int, ...]
    eot_ids: tuple[int, ...]
    eos_id: int
    answer_prefix: str = "The answer is:"
    raw_question: bool = False
    question_suffix: str = ""

    @property
    def eot_id(self) -> int:
        """The token that ends the thoughts."""
        return self.eot_ids[0]

    def __post_init__(self) -> None:
        """Check the number of latents, that there are tokens, and that texts can be written."""
        if self.num_latents < 1:
            raise InputError(
                f"expected at least 1 latent thought, got {self.num_latents}: "
                "set [[model.num_latents]] to 1 or more"
            )
        for name in ("bot_ids", "eot_ids"):
            if not getattr(self, name):
                raise InputError(f"expected {name} to hold at least one token, got none")
        for name in ("answer_prefix", "question_suffix"):
            if any("\ud800" <= c <= "\udfff" for c in getattr(self, name)):
                raise InputError(f"expected {name} of whole characters, got half of one")
