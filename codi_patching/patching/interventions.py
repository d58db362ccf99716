"""What to patch: which activation, of which run, into which cell of the patched run.

Activation patching runs one question and overwrites chosen activations by those of another run.
A *cell* is one (layer, latent position); the *site* says what is overwritten there:

    resid_post   the output of decoder block l on the residual stream
    attn_out     what the block's attention adds to the stream
    mlp_out      what its MLP adds
    kv           its keys and values of all heads: what this token and later ones read there. The
                 stream at the cell changes only through the token's attention to itself. Keys are
                 taken before rotation (after a norm of keys, if there is one) and rotated at the
                 position of the patched run.
    head         what one attention head hands to the output projection, before it
    thought      the latent thought itself, which enters layer 0; its layer is `THOUGHT`

    x ──┬─ norm ─ keys, values ─ attention ─ attn_out ─(+)─┬─ norm ─ MLP ─ mlp_out ─(+)─ resid_post
        └───────────────────────────────────────────────┘ └───────────────────────┘

Beside the latent positions there are *places* by name, of one token or more: the changed number's
tokens, the question's last token, bot, eot, and each token of the readout. Engines count tokens
from the first thought, `PlaceTokens`: bot is -1, eot is K; `on_tokens` turns names into these.

An effect of 0 at a cell means that nothing read after it depends on the difference there; a
recovery of 1 means that this cell alone restores the other run's answer. See arXiv 2309.16042 and
2404.15255 for the practice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from codi_patching.errors import InputError, brief, whole_number

Position = int | str
"""A latent position, or the name of a place outside the thoughts."""

PlaceTokens = Mapping[str, Sequence[int]]
"""Tokens of each place of a run, counted from its first thought: -1 is bot, K is eot."""

NUMBER, QUESTION_END, BOT, EOT = "number", "question end", "bot", "eot"

_PLACE = re.compile(rf"{NUMBER}|{QUESTION_END}|{BOT}|{EOT}|readout [1-9]\d*")

THOUGHT = -1
"""The layer number of the latent thought z_p itself; `"thought"` in results."""

Latents = Literal["frozen", "recomputed"]
"""Whether the thoughts after a patched cell stay the baseline's or are generated anew."""

SiteName = Literal["resid_post", "attn_out", "mlp_out", "kv", "head", "thought"]
SITE_NAMES: tuple[SiteName, ...] = get_args(SiteName)
EXTRA_SITES: tuple[SiteName, ...] = ("attn_out", "mlp_out", "kv", "head")
"""The sites that a run records only where it is asked to."""

_ORDER: tuple[SiteName, ...] = ("thought", "kv", "head", "attn_out", "mlp_out", "resid_post")


@dataclass(frozen=True)
class Site:
    """One place to patch.

    Attributes:
        name: What is overwritten.
        position: Latent position, from 0: the step whose input is the thought of that number; or
            the name of a place: `number`, all tokens of the changed number together; `question
            end`, the question's last token; `bot`; `eot`; `readout 1`, the token after eot, ….
        layer: Decoder block, from 0; none for the thought.
        head: Attention head, from 0; of the site `head` alone.

    Raises:
        InputError: There is no such site, or a place is no whole number.

    Example:
        >>> Site("kv", layer=3, position=1), Site("head", layer=4, head=2, position=1)
        (Site('kv', layer=3, position=1), Site('head', layer=4, head=2, position=1))
    """

    name: SiteName
    position: Position = field(kw_only=True)
    layer: int = field(default=THOUGHT, kw_only=True)
    head: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse unknown names, and layers where there are none."""
        if not isinstance(self.name, str) or self.name not in SITE_NAMES:
            raise InputError(f"expected a site of {', '.join(SITE_NAMES)}, got {brief(self.name)}")
        if self.layer is None or (isinstance(self.layer, str) and self.layer == "thought"):
            object.__setattr__(self, "layer", THOUGHT)
        object.__setattr__(self, "layer", whole_number(self.layer, "layer"))
        if not isinstance(self.position, str):
            object.__setattr__(self, "position", whole_number(self.position, "position"))
        elif not _PLACE.fullmatch(self.position):
            raise InputError(
                f"expected a whole number as position, or {NUMBER}, {QUESTION_END}, {BOT}, {EOT} "
                f"or readout 1, …, got {brief(self.position)}: set [[position]]"
            )
        elif self.name == "thought":
            raise InputError(
                f"expected a number as the position of a thought, got {brief(self.position)}: "
                "set [[position]]"
            )
        if (self.name == "thought") != (self.layer == THOUGHT):
            wanted = "no layer" if self.name == "thought" else "a layer"
            raise InputError(f"expected {wanted} for the site {self.name!r}, got {self.layer}")
        if (self.name == "head") != (self.head is not None):
            wanted = "a head" if self.name == "head" else "no head"
            raise InputError(f"expected {wanted} for the site {self.name!r}, got {self.head}")
        if self.head is not None:
            object.__setattr__(self, "head", whole_number(self.head, "head", 0))

    def __repr__(self) -> str:
        layer = "" if self.layer == THOUGHT else f"layer={self.layer}, "
        head = "" if self.head is None else f"head={self.head}, "
        return f"Site({self.name!r}, {layer}{head}position={self.position!r})"

    @classmethod
    def at(
        cls, layer: int, position: Position, name: SiteName = "resid_post", head: int | None = None
    ) -> Site:
        """A site by its cell; that of the layer `THOUGHT` is the thought, whatever the name.

        Example:
            >>> Site.at(THOUGHT, 1, "kv")
            Site('thought', position=1)
        """
        if layer == THOUGHT:
            name, head = "thought", None
        return cls(name, layer=layer, position=position, head=head)

    @property
    def token(self) -> int:
        """Its position as a number.

        Raises:
            TypeError: It is a place by name, which has no number before `on_tokens`.
        """
        if isinstance(self.position, str):
            raise TypeError(f"expected a position as a number, got {self.position!r}")
        return self.position

    @property
    def cell(self) -> Cell:
        """Its layer and position, a number."""
        return self.layer, self.token

    @property
    def order(self) -> tuple[int, int, int]:
        """Sorts sites so that each depends on none that comes after it."""
        return self.token, self.layer, _ORDER.index(self.name)


@dataclass(frozen=True)
class Activations:
    """What one run of a question had in its latent positions.

    Attributes:
        thoughts: z, `(K, hidden)`.
        resid: Output of every block, `(L, K, hidden)`.
        recorded: Further sites that were asked for, `(L, K, width)`. The width is hidden, or for
            `kv` 2 × heads × size: the keys of all key and value heads, then their values. Of
            `head` it is `(L, K, heads, size)`.
        places: By name of a place outside the thoughts the same of all sites but the thought, its
            tokens in place of the K positions.
    """

    thoughts: Tensor
    resid: Tensor
    recorded: Mapping[SiteName, Tensor] = field(default_factory=dict)
    places: Mapping[str, Mapping[SiteName, Tensor]] = field(default_factory=dict)

    def of_site(self, site: SiteName) -> Tensor:
        """All activations of a site, `(L, K, width)`, or `(K, hidden)` of the thoughts.

        Raises:
            ValueError: The site was not recorded.
        """
        if site == "thought":
            return self.thoughts
        if site == "resid_post":
            return self.resid
        if site not in self.recorded:
            raise ValueError(
                f"expected activations that were recorded at {site!r}, got those at "
                f"{', '.join(['thought', 'resid_post', *self.recorded])}"
            )
        return self.recorded[site]

    def at(self, layer: int, position: int, site: SiteName = "resid_post") -> Tensor:
        """The activation of one cell, `(width,)`; `layer` may be `THOUGHT`."""
        if layer == THOUGHT:
            return self.thoughts[position]
        return self.of_site(site)[layer][position]

    def of(self, site: Site) -> Tensor:
        """The activation of a site, `(width,)`; of a place `(tokens, width)`.

        Raises:
            ValueError: The site, or the place, was not recorded.
        """
        if not isinstance(site.position, str):
            there = self.at(*site.cell, site.name)
        elif site.name in self.places.get(site.position, {}):
            there = self.places[site.position][site.name][site.layer]
        else:
            raise ValueError(f"expected a run that recorded {site.name!r} at {site.position!r}")
        return there if site.head is None else there.select(-2, site.head)

    def map(self, change: Callable[[Tensor], Tensor]) -> Activations:
        """The same with every tensor changed."""
        recorded = {site: change(values) for site, values in self.recorded.items()}
        places = {
            name: {site: change(values) for site, values in own.items()}
            for name, own in self.places.items()
        }
        return Activations(change(self.thoughts), change(self.resid), recorded, places)

    def to(self, dtype: torch.dtype) -> Activations:
        """The same in another precision."""
        return self.map(lambda values: values.to(dtype))

    def plus(self, other: Activations) -> Activations:
        """The sum, cell by cell."""
        recorded = {site: values + other.recorded[site] for site, values in self.recorded.items()}
        places = {
            name: {site: values + other.places[name][site] for site, values in own.items()}
            for name, own in self.places.items()
        }
        thoughts, resid = self.thoughts + other.thoughts, self.resid + other.resid
        return Activations(thoughts, resid, recorded, places)

    @classmethod
    def zeros_like(cls, other: Activations) -> Activations:
        """Zero vectors in every cell."""
        return other.map(torch.zeros_like)


Cell = tuple[int, int]
"""A layer (or `THOUGHT`) and a latent position; its activation is that of `resid_post`."""


@dataclass(frozen=True)
class Generated:
    """The activation that an earlier row of the same call has in the patched cell.

    Of `resid_post` and thoughts alone.
    """

    row: int


@dataclass(frozen=True)
class Computed:
    """A function of what the patched run itself has in the cell, given its other patches.

    Attributes:
        function: From `(width,)` to `(width,)`; leaves its argument as it is.
    """

    function: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Patch:
    """One overwritten site.

    Attributes:
        site: What is overwritten, and where.
        values: `(width,)`, or where it comes from.
    """

    site: Site
    values: Tensor | Generated | Computed


PatchSet = Sequence[Patch]
"""One patched run: all its patches. An empty row is an unpatched run."""


def patches_from(
    activations: Activations,
    layer: int,
    positions: Sequence[Position],
    site: SiteName = "resid_post",
) -> list[Patch]:
    """Patch `positions` of one layer with the activations of another run; of heads, all of them."""
    heads: Sequence[int | None] = [None]
    if site == "head" and layer != THOUGHT:
        heads = range(activations.of_site("head").shape[2])
    sites = [Site.at(layer, p, site, head) for p in positions for head in heads]
    return [Patch(each, activations.of(each)) for each in sites]


def all_patches(activations: Activations) -> list[Patch]:
    """Patch every cell: the thoughts, and keys, values and output of every layer and position.

    Nothing of the thoughts is then the patched run's own, at whatever layer they are read. Without
    the keys and values those of layer 0 would be made at the patched run's absolute positions.

    Raises:
        ValueError: Keys and values were not recorded.
    """
    layers, positions = activations.resid.shape[:2]
    patches = patches_from(activations, THOUGHT, range(positions))
    for layer in range(layers):
        for site in ("kv", "resid_post"):
            patches += patches_from(activations, layer, range(positions), site)
    return patches


class PlaceError(ValueError):
    """A run does not have a place, or not of as many tokens as are patched in."""


def on_tokens(patch_set: PatchSet, places: PlaceTokens) -> list[Patch]:
    """Patches with each place by name as the tokens that it has in the patched run.

    Args:
        patch_set: Values at places are `(tokens, width)`; a function is of each token alone.
        places: Of the patched run.

    Raises:
        PlaceError: A place is not there, or its values are of another number of tokens.
    """
    found: list[Patch] = []
    for patch in patch_set:
        name = patch.site.position
        if not isinstance(name, str):
            found.append(patch)
            continue
        tokens, values = places.get(name, ()), patch.values
        if not tokens:
            raise PlaceError(f"the patched run has no {name!r}")
        count = len(values) if isinstance(values, Tensor) else len(tokens)
        if count != len(tokens):
            raise PlaceError(f"{name!r} has {len(tokens)} tokens and is patched with {count}")
        found += [
            Patch(
                replace(patch.site, position=token),
                values[i] if isinstance(values, Tensor) else values,
            )
            for i, token in enumerate(tokens)
        ]
    return found


def check_rows(
    rows: Sequence[PatchSet], num_layers: int, num_latents: int, outside: Collection[int] = ()
) -> None:
    """Refuse cells that do not exist or are patched twice in a row, and values not yet generated.

    Args:
        rows: The patches of each row.
        num_layers: L.
        num_latents: K.
        outside: Tokens outside the thoughts that may be patched too.

    Raises:
        ValueError: Naming the cell and the grid, or the rows.
    """
    for index, row in enumerate(rows):
        cells = [patch.site.cell for patch in row]
        for layer, position in cells:
            there = 0 <= position < num_latents or (position in outside and layer != THOUGHT)
            if not (there and THOUGHT <= layer < num_layers):
                raise ValueError(
                    f"expected a layer in 0..{num_layers - 1} (or {THOUGHT} for the thought) and "
                    f"a position in 0..{num_latents - 1}, got layer {layer}, position {position}"
                )
        if len({patch.site for patch in row}) != len(row):
            raise ValueError(f"expected each cell once in a row, got {cells}")
        for patch in row:
            if isinstance(patch.values, Generated):
                _check_generated(patch, patch.values, index)


def _check_generated(patch: Patch, generated: Generated, row: int) -> None:
    if not 0 <= generated.row < row:
        raise ValueError(
            f"expected row {row} to be patched with what an earlier row generated, got "
            f"row {generated.row}"
        )
    if patch.site.name not in ("resid_post", "thought"):
        raise ValueError(
            f"expected generated values at resid_post or thought alone, got {patch.site.name!r}"
        )


def extra_sites(sites: Collection[SiteName]) -> tuple[SiteName, ...]:
    """Those of some sites that a run records only where it is asked to."""
    return tuple(site for site in EXTRA_SITES if site in sites)
