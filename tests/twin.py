"""An independent way to the same numbers: no hooks, no cache, the whole sequence every time.

The runs take patches as `{(layer, position): vector}`, layer -1 being the thought itself. The
metrics are written out once more, in float64, from their definitions in DESIGN.md section 5.
"""

import math

import torch

from codi_patching.models.answers import build_readout


def cells_of(row):
    """A row of `Patch` as a dictionary."""
    return {patch.site.cell: patch.values for patch in row}


def _through_blocks(model, embeddings, patches):
    """Whole sequence through the decoder's layers one by one, overwriting cells between them.

    `patches`: {(layer, sequence index): vector}.
    """
    decoder = model.backbone.model
    stream = embeddings
    positions = torch.arange(stream.shape[1]).unsqueeze(0)
    rotary = decoder.rotary_emb(stream, position_ids=positions)
    resid = []
    for layer, block in enumerate(decoder.layers):
        stream = block(stream, position_embeddings=rotary, attention_mask=None).clone()
        for (at, index), values in patches.items():
            if at == layer:
                stream[0, index] = values
        resid.append(stream[0].clone())
    return decoder.norm(stream)[0], resid


def run_twin(model, question, patches, readout, latents="recomputed", frozen=None):
    """One run. Returns thoughts (K, d), resid (L, K, d) and a list of answer logits (m, V)."""
    prompt = model.prompt_ids(question)
    start, k = len(prompt), model.num_latents
    cells = {(layer, start + p): values for (layer, p), values in patches.items()}
    thoughts = []
    for position in range(k):
        if latents == "frozen":
            thought = frozen[position]
        else:
            sequence = model.embed(torch.tensor([prompt]))
            if thoughts:
                sequence = torch.cat([sequence, torch.stack(thoughts)[None]], dim=1)
            earlier = {c: v for c, v in cells.items() if c[1] < start + position}
            hidden, _ = _through_blocks(model, sequence, earlier)
            thought = model.prj(hidden[-1])
        thoughts.append(cells.get((-1, start + position), thought))
    logits = []
    for answer in readout.answers:
        ids = [*readout.prefix, *answer[:-1]]
        sequence = torch.cat(
            [
                model.embed(torch.tensor([prompt])),
                torch.stack(thoughts)[None],
                model.embed(torch.tensor([ids])),
            ],
            dim=1,
        )
        hidden, resid = _through_blocks(model, sequence, cells)
        logits.append(model.logits(hidden[-len(answer) :]))
    resid = torch.stack([layer[start : start + k] for layer in resid])
    return torch.stack(thoughts), resid, logits


class TwinPair:
    """A pair's two unpatched runs, and what any patched run of it gives.

    Args:
        model: In float64.
        clean: Text and answer.
        corrupted: Text and answer.
        direction: `denoising` or `noising`.
    """

    def __init__(self, model, clean, corrupted, direction="denoising"):
        self.model, self.clean_is_source = model, direction == "denoising"
        base, source = (corrupted, clean) if self.clean_is_source else (clean, corrupted)
        self.question = base[0]
        self.readout = build_readout(
            model.tokenizer, model.settings.eot_ids, "The answer is:", (base[1], source[1])
        )
        self.base, self.source = (self.unpatched(text) for text in (base[0], source[0]))

    def unpatched(self, question):
        """Thoughts, resid and logits of a question without patches."""
        return run_twin(self.model, question, {}, self.readout)

    def patched(self, patches, latents="recomputed"):
        """Thoughts, resid and logits of the base question with patches."""
        frozen = self.base[0] if latents == "frozen" else None
        return run_twin(self.model, self.question, patches, self.readout, latents, frozen)

    def metrics(self, logits):
        """Every metric of a run's logits, as numbers."""
        base, source = (run[2] for run in (self.base, self.source))
        clean, corrupted = (1, 0) if self.clean_is_source else (0, 1)
        ids = self.readout.answers

        def difference(run):
            return mean_logit(run[clean], ids[clean]) - mean_logit(run[corrupted], ids[corrupted])

        span = difference(source) - difference(base)
        here, there = logits[0].double(), base[0].double()
        return {
            "kl_divergence": kl(logits[0], base[0]),
            "l2_difference": mean(math.dist(a, b) for a, b in zip(here.tolist(), there.tolist())),
            "prediction_change_rate": mean(
                float(a.argmax() != b.argmax()) for a, b in zip(here, there, strict=True)
            ),
            "answer_logit_difference": difference(logits),
            "kl_to_source": kl(source[1], logits[1]),
            "recovery": (difference(logits) - difference(base)) / span,
            "predicts_clean": says(logits[clean], ids[clean]),
            "predicts_corrupted": says(logits[corrupted], ids[corrupted]),
            "clean_probability": probability(logits[clean], ids[clean]),
            "corrupted_probability": probability(logits[corrupted], ids[corrupted]),
        }


def from_run(run, cells):
    """The activations of a run at some cells, as patches."""
    thoughts, resid, _ = run
    return {(layer, p): thoughts[p] if layer < 0 else resid[layer, p] for layer, p in cells}


def whole_run(run):
    """Every latent cell of a run, thoughts included."""
    layers, positions = run[1].shape[:2]
    return from_run(run, [(layer, p) for layer in range(-1, layers) for p in range(positions)])


def mean(numbers):
    """The mean."""
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def probabilities(logits):
    """Softmax in float64, a row for each token."""
    weights = (logits.double() - logits.double().amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


def kl(logits, reference):
    """Mean over tokens of the sum of p ln(p / q)."""
    p, q = probabilities(logits), probabilities(reference)
    return (p * (p / q).log()).sum(-1).mean().item()


def mean_logit(logits, ids):
    """Mean of the answer's tokens' logits."""
    return mean(logits[place, token].item() for place, token in enumerate(ids))


def probability(logits, ids):
    """Product of the answer's tokens' probabilities."""
    rows = probabilities(logits)
    return math.prod(rows[place, token].item() for place, token in enumerate(ids))


def says(logits, ids):
    """1 if each of the answer's tokens is the most probable."""
    return float(all(row.argmax().item() == token for row, token in zip(logits, ids)))


def cosine(a, b):
    """Cosine of an angle."""
    a, b = a.double(), b.double()
    return ((a @ b) / (a.norm() * b.norm())).item()
