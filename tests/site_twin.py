"""Every site by brute force: decoders written out from their weights, no hooks, no cache.

The whole sequence is run again for every thought. Edits are `{(site, layer, index): value}`,
`index` being a place in the sequence and `value` a vector or a function of the present one; the
site `thought` is left to the caller; the value of `cut` is the places that `index` does not see.
Keys and values are one vector, `(2, heads, size)` flattened; the site `("head", h)` is what head h
hands to the output projection.
"""

import math

import torch
from torch.nn import functional


def edited(edits, site, layer, rows):
    """Rows `(length, width)` with the edits of a site."""
    rows = rows.clone()
    for (name, at, index), value in edits.items():
        if (name, at) == (site, layer):
            rows[index] = value(rows[index].clone()) if callable(value) else value
    return rows


def rms(x, norm):
    """In float32, as transformers has it whatever the model's precision."""
    wide = x.float()
    scale = (wide.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    return norm.weight * (wide * scale).to(x.dtype)


def layer_norm(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
    return centred / scale * norm.weight + norm.bias


def rotate(x, theta):
    """`(length, heads, size)` turned by their positions; angles in float32, as transformers has."""
    length, _, size = x.shape
    frequency = 1.0 / theta ** (torch.arange(0, size, 2).float() / size)
    angle = torch.arange(length).float()[:, None] * frequency
    cosine, sine = angle.cos()[:, None].double(), angle.sin()[:, None].double()
    one, two = x[..., : size // 2], x[..., size // 2 :]
    return torch.cat([one * cosine - two * sine, two * cosine + one * sine], dim=-1)


def attend(queries, keys, values, edits, layer):
    """Causal attention of `(length, heads, size)`, one head and one token at a time."""
    length, heads, size = queries.shape
    share = heads // keys.shape[1]
    mixed = torch.empty_like(queries)
    for head in range(heads):
        for place in range(length):
            k, v = keys[: place + 1, head // share], values[: place + 1, head // share]
            logits = k @ queries[place, head] / math.sqrt(size)
            for unseen in edits.get(("cut", layer, place), ()):
                logits[unseen] = -math.inf
            weights = logits.softmax(0)
            mixed[place, head] = weights @ v
    return mixed


def heads_edited(edits, layer, mixed):
    """What heads give `(length, heads, size)` with the edits of single heads."""
    parts = [edited(edits, ("head", h), layer, mixed[:, h]) for h in range(mixed.shape[1])]
    return torch.stack(parts, dim=1)


def llama_block(block, x, layer, edits, config):
    attention, size = block.self_attn, block.self_attn.head_dim
    normed = rms(x, block.input_layernorm)
    queries = attention.q_proj(normed).unflatten(-1, (-1, size))
    keys = attention.k_proj(normed).unflatten(-1, (-1, size))
    values = attention.v_proj(normed)
    if hasattr(attention, "q_norm"):
        queries, keys = rms(queries, attention.q_norm), rms(keys, attention.k_norm)
    kv = edited(edits, "kv", layer, torch.cat([keys.flatten(1), values], dim=-1))
    keys, values = kv.unflatten(-1, (2, -1, size)).unbind(1)
    theta = config.rope_parameters["rope_theta"]
    queries, keys = rotate(queries, theta), rotate(keys, theta)
    mixed = heads_edited(edits, layer, attend(queries, keys, values, edits, layer))
    added = attention.o_proj(mixed.flatten(1))
    added = edited(edits, "attn_out", layer, added)
    x = x + added
    normed = rms(x, block.post_attention_layernorm)
    out = block.mlp.down_proj(
        functional.silu(block.mlp.gate_proj(normed)) * block.mlp.up_proj(normed)
    )
    out = edited(edits, "mlp_out", layer, out)
    return edited(edits, "resid_post", layer, x + out), kv, added, out, mixed


def gpt2_block(block, x, layer, edits, config):
    size, hidden = config.n_embd // config.n_head, config.n_embd
    both = layer_norm(x, block.ln_1) @ block.attn.c_attn.weight + block.attn.c_attn.bias
    kv = edited(edits, "kv", layer, both[:, hidden:])
    keys, values = kv.unflatten(-1, (2, -1, size)).unbind(1)
    mixed = attend(both[:, :hidden].unflatten(-1, (-1, size)), keys, values, edits, layer)
    mixed = heads_edited(edits, layer, mixed)
    added = mixed.flatten(1) @ block.attn.c_proj.weight + block.attn.c_proj.bias
    added = edited(edits, "attn_out", layer, added)
    x = x + added
    inner = layer_norm(x, block.ln_2) @ block.mlp.c_fc.weight + block.mlp.c_fc.bias
    inner = 0.5 * inner * (1 + (math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)).tanh())
    out = edited(edits, "mlp_out", layer, inner @ block.mlp.c_proj.weight + block.mlp.c_proj.bias)
    return edited(edits, "resid_post", layer, x + out), kv, added, out, mixed


def through(model, x, edits):
    """Final hidden states `(length, hidden)`, and each site `(L, length, width)`."""
    backbone, config = model.backbone, model.backbone.config
    gpt2 = config.model_type == "gpt2"
    decoder = backbone.transformer if gpt2 else backbone.model
    if gpt2:
        x = x + decoder.wpe.weight[: len(x)]
    kept = {name: [] for name in ("resid_post", "kv", "attn_out", "mlp_out", "head")}
    for layer, block in enumerate(decoder.h if gpt2 else decoder.layers):
        x, *rest = (gpt2_block if gpt2 else llama_block)(block, x, layer, edits, config)
        for name, value in zip(kept, (x, *rest)):
            kept[name].append(value)
    last = layer_norm(x, decoder.ln_f) if gpt2 else rms(x, decoder.norm)
    return last, {name: torch.stack(values) for name, values in kept.items()}


def run_site_twin(model, prompt, row, readout, latents="recomputed", frozen=None, everything=False):
    """One row of `(site, layer, position, value)`; position -1 is the prompt's last token; of `cut`
    the places after the prompt, or before.

    Returns thoughts (K, d), sites {name: (L, K, width)}, and a list of answer logits (m, V); with
    `everything` the sites of the whole sequence too, (L, length, width).
    """
    start, words = len(prompt), model.backbone.get_input_embeddings().weight
    cells = {(s, layer, start + p): v for s, layer, p, v in row if s != "thought"}
    cells |= {c: [start + place for place in v] for c, v in cells.items() if c[0] == "cut"}
    given = {p: v for s, _, p, v in row if s == "thought"}
    thoughts = []
    for position in range(model.num_latents):
        if latents == "frozen":
            thought = frozen[position]
        else:
            before = torch.cat([words[prompt], *(z[None] for z in thoughts)])
            earlier = {c: v for c, v in cells.items() if c[2] < start + position}
            thought = model.prj(through(model, before, earlier)[0][-1])
        value = given.get(position)
        if value is not None:
            thought = value(thought) if callable(value) else value
        thoughts.append(thought)
    logits = []
    for answer in readout.answers:
        ids = [*readout.prefix, *answer[:-1]]
        whole = torch.cat([words[prompt], torch.stack(thoughts), words[ids]])
        hidden, sites = through(model, whole, cells)
        head = model.backbone.get_output_embeddings().weight
        logits.append(hidden[-len(answer) :] @ head.T)
    inside = slice(start, start + model.num_latents)
    found = torch.stack(thoughts), {k: v[:, inside] for k, v in sites.items()}, logits
    return (*found, sites) if everything else found
