# %% [markdown]
# # Where is the answer made?
#
# Results of position patching in a notebook. Open this file in Jupyter (with jupytext), VS Code or
# PyCharm, or run it: `python docs/example.py`.

# %%
from pathlib import Path

import codi_patching as cp

docs = Path(__file__).parent
results = cp.load_results(docs / "results" / "position")
print(results.metadata["model"], results.metadata["num_pairs"], "pairs")

# %% [markdown]
# The map: mean KL over pairs, a row for each layer, a column for each latent position.

# %%
print(results.grid("kl_divergence").tail(5).round(3))

# %% [markdown]
# The pairs that the strongest cell moves most, with their questions.

# %%
cells = results.cells[results.cells.structural_zero == 0]
strongest = cells.groupby(["layer", "position"]).kl_divergence.mean().idxmax()
at = cells.set_index(["layer", "position"]).loc[strongest].set_index("pair_id")
for pair_id, row in at.nlargest(3, "kl_divergence").iterrows():
    pair = results.pairs.loc[pair_id]
    print(f"{pair_id}: KL {row.kl_divergence:.2f} nats, recovery {row.recovery:.2f}")
    print(f"    patched: {pair.patched_question} ({pair.patched_answer})")
    print(f"    giving:  {pair.giving_question} ({pair.giving_answer})")

# %% [markdown]
# Does patching change the answer where the model was surest?

# %%
surest = results.pairs["baseline.answer_logit_difference"]
print(f"rank correlation {at.kl_divergence.corr(surest, method='spearman'):.2f}")
