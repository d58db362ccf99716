"""An independent way to the same numbers: no hooks, no cache, the whole sequence every time."""

import torch

from codi_patching.patching.interventions import THOUGHT


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


def run_twin(model, question, row, readout, latents="recomputed", frozen=None):
    """One row. Returns thoughts (K, d), resid (L, K, d) and a list of answer logits (m, V)."""
    prompt = model.prompt_ids(question)
    start, k = len(prompt), model.num_latents
    cells = {(p.layer, start + p.position): p.values for p in row}
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
        thoughts.append(cells.get((THOUGHT, start + position), thought))
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
