"""Strata: codi-tiny's truth from its results alone, planted truths, shuffled labels, odd files.

Truths are planted by this file's own few lines: a thought that holds the result of step r restores
a pair exactly if r is on the changed number's path, at a given rate.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from codi_patching.analysis import strata
from codi_patching.analysis.dependence import bimodal_share, explained_share, permutation_p
from codi_patching.analysis.restored import exact_interval
from codi_patching.analysis.strata import strata_finding, strata_of
from codi_patching.results.dataset import pairs_of, patching_dataset, run_of
from codi_patching.results.pair_descriptions import PairDescription
from codi_patching.results.read import read_results
from tests import results_maker

ROOT = Path(__file__).parents[2]
SHARE = 0.01
LAYER_0 = """
2 1  14/14 14/14  0/14  0/14  0/14
2 2   0/5   0/5   0/5   0/5   0/5
3 1   7/7   7/7   7/7   7/7   0/7
3 2   0/8   0/8   8/8   8/8   0/8
3 3   0/4   0/4   0/4   0/4   0/4
4 1   6/6   6/6   6/6   6/6   6/6
4 2   0/5   0/5   5/5   5/5   5/5
4 3   0/5   0/5   0/5   0/5   5/5
4 4   0/3   0/3   0/3   0/3   0/3
"""
"""Pairs restored by position, for each number of steps and changed step: of issue and figure."""


def rows_of(text):
    return [line.split() for line in text.strip().splitlines()]


def read(name):
    return read_results(ROOT / "docs" / "results" / "codi-tiny" / name)


@pytest.fixture(scope="module")
def tiny():
    return strata_finding(read("position_recomputed"), "position, recomputed", SHARE)


def counts_of(table):
    return [
        [str(s.num_steps), str(s.changed_step), *(f"{e.restored}/{e.n}" for e in entries)]
        for s, entries in zip(table.strata, table.entries, strict=True)
    ]


def says(table, lengths):
    """For each length and position, the step that is carried, or None."""
    said = {}
    for carried in table.carried:
        for length in carried.lengths or lengths:
            said.setdefault((length, int(carried.column)), []).append(carried.step)
    return {key: steps[0] if len(steps) == 1 else steps for key, steps in said.items()}


def card():
    """What the model card says that each thought carries, by number of steps; None if idle."""
    text = (ROOT / "docs" / "codi_tiny.md").read_text(encoding="utf-8")
    said = re.findall(r"^\| (\d) \| z_(\d) \| (?:r_(\d)|idle) \|", text, re.MULTILINE)
    return {(int(length), int(z)): int(step) if step else None for length, z, step in said}


def test_table_of_codi_tiny_is_recovered(tiny):
    assert tiny.main.layer == "0"
    assert counts_of(tiny.main) == rows_of(LAYER_0)
    assert (tiny.main.control_restored, tiny.main.control_n) == (0, 57 * 5)


def test_above_the_readers_the_same_table_stands_one_position_later(tiny):
    upper = next(table for table in tiny.others if table.layer == "10")
    for row, lower in zip(counts_of(upper), rows_of(LAYER_0), strict=True):
        shifted = [*lower[3:], f"0/{lower[2].split('/')[1]}"]
        changed_first = row[1] == "1"  # z_0 itself is read from the first on
        assert row[2 + changed_first :] == shifted[changed_first:]


def test_main_table_carries_what_the_model_card_says(tiny):
    assert len(card()) == 15
    assert says(tiny.main, (2, 3, 4)) == card()


def test_every_layer_below_the_readers_carries_the_same(tiny):
    for table in tiny.others[:6]:
        assert says(table, (2, 3, 4)) == card()


def test_upper_layers_carry_what_the_next_thought_does(tiny):
    expected = {(n, z): card()[n, z + 1] if z < 4 else None for n, z in card()}
    expected |= {(n, 0): 1 for n in (2, 3, 4)}
    for table in tiny.others[8:16]:
        known = says(table, (2, 3, 4))
        assert known == {key: expected[key] for key in known}
        assert len(known) == (12 if table.layer == "15" else 15)


def test_sentences_have_their_counts(tiny):
    z_0, *_ = tiny.main.carried
    assert (z_0.restored, z_0.n, z_0.others_restored, z_0.others_n) == (27, 27, 0, 30)
    assert z_0.lengths == ()
    of_2, of_rest = [c for c in tiny.main.carried if c.column == "2"]
    assert (of_2.lengths, of_2.step, of_2.restored, of_2.n) == ((2,), None, 0, 14)
    assert of_2.most == pytest.approx(1 - 0.025 ** (1 / 14))
    assert (of_rest.lengths, of_rest.restored, of_rest.n) == ((3, 4), 26, 26)
    assert (of_rest.others_restored, of_rest.others_n) == (0, 12)


def test_effects_of_codi_tiny_are_all_or_nothing_and_explained_by_strata(tiny):
    assert tiny.depends == 1 / 2000
    assert tiny.bimodal > 0.95
    assert tiny.explained > 0.99


def test_frozen_thoughts_show_only_what_the_readout_reads():
    table = strata_finding(read("position_frozen"), "position, frozen", 0.002).main
    expected = dict.fromkeys(card()) | {(2, 1): 1, (3, 3): 2, (4, 4): 3}
    assert says(table, (2, 3, 4)) == expected


def test_lens_has_no_strata():
    assert strata_finding(read("lens"), "lens", SHARE) is None


def shuffled(data, seed):
    """The same results, changed steps permuted within each number of steps."""
    rng = np.random.default_rng(seed)
    steps, lengths = data["changed_step"].values.copy(), data["num_steps"].values
    for length in np.unique(lengths):
        of = np.flatnonzero(lengths == length)
        steps[of] = rng.permutation(steps[of])
    return data.assign_coords(changed_step=("pair", steps))


def test_shuffled_labels_name_no_step_and_p_is_uniform():
    data = read("position_recomputed").isel(layer=[0, 10])
    found = [
        strata_finding(shuffled(data, seed), "x", SHARE, seed=seed, permutations=199)
        for seed in range(60)
    ]
    named = sum(any(c.step for t in f.others for c in t.carried) for f in found)
    assert named <= 3  # at a share of 1 % the chance of more is 4e-4
    p = [f.depends for f in found]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_where_no_dependence_is_shown_counts_are_over_all_pairs():
    data = shuffled(read("position_recomputed").isel(layer=[0]), seed=3)
    finding = strata_finding(data, "x", SHARE)
    assert finding.depends > SHARE
    first, *_ = finding.main.carried
    assert (first.step, first.restored, first.n) == (None, 27, 57)
    assert np.isnan(first.most)


def planted(
    pairs,
    own,
    control=None,
    layers=1,
    direction="denoising",
    has_control=True,
    groups=None,
    base=None,
):
    """A run whose answers are given.

    Args:
        pairs: `(num_steps, changed_step, path)` each.
        own: `(pairs, columns)`, whether the own patch gives the source answer, in every layer.
        control: The same of the control's.
        layers: How many.
        direction: Of patching.
        has_control: Whether there is a control at all.
        groups: Of each pair.
        base: Whether the unpatched run says the source answer.
    """
    own = np.asarray(own, dtype=float)
    control = np.zeros_like(own) if control is None else np.asarray(control, dtype=float)
    run = results_maker.run_of("position", layers=layers, columns=own.shape[1], direction=direction)
    run = replace(run, grid=replace(run.grid, structural_zeros=()))
    source, other = ("clean", "corrupted") if direction == "denoising" else ("corrupted", "clean")

    def values(said):
        cells = np.repeat(said[:, None], layers, axis=1)
        known = {f"predicts_{source}": cells, f"{source}_probability": 0.9 * cells}
        known |= {f"predicts_{other}": 1 - cells, f"{other}_probability": 0.9 - 0.9 * cells}
        return {metric: known.get(metric, np.zeros_like(cells)) for metric in run.metrics}

    def whole(said):
        known = {f"predicts_{source}": said, f"{source}_probability": 0.9 * said}
        return {metric: known.get(metric, 0.0) for metric in run.metrics}

    described = [
        PairDescription(
            base_question="a",
            source_question="b",
            base_answer="1",
            source_answer="2",
            base_answer_tokens=(1,),
            source_answer_tokens=(2,),
            group=str(groups[row]) if groups is not None else str(row),
            base=whole(float(base[row]) if base is not None else 0.0),
            source=whole(1.0),
            ceiling=whole(1.0),
            num_steps=length,
            changed_step=step,
            changed_path=path,
        )
        for row, (length, step, path) in enumerate(pairs)
    ]
    ids = [f"p{row}" for row in range(len(pairs))]
    return patching_dataset(
        run, ids, described, values(own), values(control) if has_control else {}
    )


def chain_pairs(rng, n, lengths=(2, 3, 4)):
    drawn = [(int(rng.choice(lengths)),) for _ in range(n)]
    return [(k, int(rng.integers(1, k + 1)), ()) for (k,) in drawn]


HOLDS = {2: (1, 1, None, None, None), 3: (1, 1, 2, 2, None), 4: (1, 1, 2, 2, 3)}


def graded(rng, n, rate, background=0.0):
    """A model like codi-tiny whose patches restore at a rate; others, and the control, seldom."""
    pairs = chain_pairs(rng, n)
    reached = np.array(
        [[r is not None and step <= r for r in HOLDS[length]] for length, step, _ in pairs]
    )
    own = rng.random(reached.shape) < np.where(reached, rate, background)
    return planted(pairs, own, rng.random(reached.shape) < background)


@pytest.mark.parametrize(("rate", "least"), [(0.3, 0.15), (0.5, 0.5), (0.8, 0.85)])
def test_graded_restoration_is_found_and_not_later_than_it_is(rate, least):
    right = late = entries = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        found = strata_finding(graded(rng, 57, rate), "x", SHARE, permutations=199).main
        for (length, z), step in says(found, (2, 3, 4)).items():
            held = HOLDS[length][z]
            late += step is not None and (held is None or np.max(step) > held)
            right += held is not None and step == held
            entries += held is not None
    assert late <= 0.01 * 25 * 15
    assert right >= least * entries


def test_nothing_is_named_later_than_it_is_beside_patches_that_restore_by_chance():
    late = 0
    for seed in range(40):
        data = graded(np.random.default_rng(seed), 57, 0.5, background=0.1)
        found = strata_finding(data, "x", SHARE, permutations=199).main
        late += any(
            step is not None and np.max(step) > (HOLDS[length][z] or 0)
            for (length, z), step in says(found, (2, 3, 4)).items()
        )
    assert late <= 5  # at 5 % of tables, the chance of more is 1.4 %


BRANCHES = {1: (1, 3, 4), 2: (2, 3, 4), 3: (3, 4), 4: (4,)}
"""Steps 1 and 2 are independent, step 3 takes both, step 4 is the last."""


def branching(steps, holds):
    """Pairs of four steps; each position holds a set of results, any of which restores."""
    own = [[bool(set(results) & set(BRANCHES[s])) for results in holds] for s in steps]
    return planted([(4, s, BRANCHES[s]) for s in steps], own)


def test_branching_chain_follows_the_changed_numbers_path():
    data = branching([1, 2, 3, 4] * 8, [{1}, {2}, {3}, {4}, set()])
    table = strata_finding(data, "x", SHARE).main
    assert says(table, (4,)) == {(4, 0): 1, (4, 1): 2, (4, 2): 3, (4, 3): 4, (4, 4): None}
    of_3 = table.carried[2]
    assert (of_3.restored, of_3.n, of_3.others_restored, of_3.others_n) == (24, 24, 0, 8)
    assert table.strata[1].path == (2, 3, 4)


def test_position_with_two_branches_results_carries_both_and_not_where_they_meet():
    data = branching([1, 2, 3, 4] * 8, [{1, 2}, set()])
    assert says(strata_finding(data, "x", SHARE).main, (4,))[4, 0] == [1, 2]


def test_branches_are_explained_by_where_they_meet_if_too_few_pairs_change_there():
    data = branching([1, 2, 4] * 8 + [3] * 3, [{3}, set()])
    assert says(strata_finding(data, "x", SHARE).main, (4,))[4, 0] == 3


def test_answer_itself_is_the_last_step_of_each_length():
    pairs = [(k, s, ()) for k in (2, 3) for s in range(1, k + 1)] * 6
    holds_r1 = [s == 1 for _, s, _ in pairs]
    table = strata_finding(planted(pairs, np.array([[True] * 30, holds_r1]).T), "x", SHARE).main
    first = [(c.lengths, c.step, c.restored, c.n) for c in table.carried if c.column == "0"]
    assert first == [((2,), 2, 12, 12), ((3,), 3, 18, 18)]


def last_steps(restored):
    """Lengths of four pairs whose last step changed, so many of each restored, and 30 others."""
    pairs = [(k, k, ()) for k in restored for _ in range(4)]
    own = [[at < n] for n in restored.values() for at in range(4)]
    others = [(4, 1, (1,))] * 15 + [(4, 2, (2,))] * 15
    return planted(pairs + others, own + [[False]] * 30)


def test_last_step_is_said_of_no_length_that_does_not_show_it_by_itself():
    """6 of 12 together are more than chance allows, 2 of 4 of each length are not."""
    found = strata_finding(last_steps({2: 2, 3: 2, 4: 2}), "x", SHARE)
    assert found.depends <= SHARE
    (carried,) = found.main.carried
    assert (carried.step, carried.restored, carried.n) == (None, 6, 12)


def test_last_step_is_said_of_the_lengths_that_show_it():
    found = strata_finding(last_steps({2: 4, 3: 2, 4: 4}), "x", SHARE)
    assert found.depends <= SHARE
    said = [(c.lengths, c.step, c.restored, c.n) for c in found.main.carried]
    assert said == [((2,), 2, 4, 4), ((4,), 4, 4, 4), ((3,), None, 2, 4)]


def test_length_with_one_pair_is_not_said_to_carry_its_last_step():
    pairs = [(2, 2, ())] + [(3, 3, ())] * 14 + [(3, 1, (1,))] * 15 + [(3, 2, (2,))] * 15
    own = [[0 < row < 15] for row in range(45)]
    table = strata_finding(planted(pairs, own), "x", SHARE).main
    assert says(table, (2, 3)) == {(2, 0): None, (3, 0): 3}


def test_step_of_longer_problems_is_not_said_of_shorter_ones_in_which_it_is_the_last():
    """z holds r_2 of three-step problems and r_3 of four-step ones; steps 1 and 2 look alike."""
    pairs = [(k, s, ()) for k in (3, 4) for s in range(1, k + 1)] * 6
    own = [[s <= k - 1] for k, s, _ in pairs]
    table = strata_finding(planted(pairs, own), "x", SHARE).main
    assert says(table, ()) == {(3, 0): 2, (4, 0): 3}


def test_weaker_step_is_a_trace():
    """Step 1 restores 20 of 20, step 2 8 of 20: under half of the best share, and more than 5 %."""
    pairs = [(3, 1, ()), (3, 2, ()), (3, 3, ())] * 20
    own = [[step == 1 or (step == 2 and row < 24)] for row, (_, step, _) in enumerate(pairs)]
    carried = strata_finding(planted(pairs, own), "x", SHARE).main.carried[0]
    assert (carried.step, carried.traces) == (1, (2,))
    assert (carried.restored, carried.n, carried.others_restored, carried.others_n) == (
        20,
        20,
        8,
        40,
    )


def test_half_of_the_best_share_is_more_than_a_trace():
    """Step 2 restores 10 of 20: what step 1 restores goes through it."""
    pairs = [(3, 1, ()), (3, 2, ()), (3, 3, ())] * 20
    own = [[step == 1 or (step == 2 and row < 30)] for row, (_, step, _) in enumerate(pairs)]
    carried = strata_finding(planted(pairs, own), "x", SHARE).main.carried[0]
    assert (carried.step, carried.traces) == (2, ())
    assert (carried.restored, carried.n) == (30, 40)


def test_entries_by_hand():
    """Six tests (two positions, three rows), level 0.01 / 6 = 1.7e-3, chance 0.05.

    P(Bin(8, .05) ≥ 3) = 5.8e-3 does not count, P(Bin(8, .05) ≥ 4) = 3.7e-4 does. The control says
    the source answer in one of the 48 runs, where the own patch does not.
    """
    pairs = [(3, step, ()) for step in (1, 2, 3) for _ in range(8)]
    own, control = np.zeros((24, 2)), np.zeros((24, 2))
    own[:4, 0] = own[8:11, 0] = own[:8, 1] = 1
    control[20, 0] = 1
    table = strata_finding(planted(pairs, own, control), "x", SHARE).main
    restored = [[(e.restored, e.n, e.counts, e.control) for e in row] for row in table.entries]
    assert restored == [
        [(4, 8, True, 0), (8, 8, True, 0)],
        [(3, 8, False, 0), (0, 8, False, 0)],
        [(0, 8, False, 1), (0, 8, False, 0)],
    ]
    assert (table.control_restored, table.control_n, table.chance) == (1, 48, 0.05)
    assert table.entries[0][1].low == pytest.approx(0.025 ** (1 / 8))
    assert (table.entries[0][1].high, table.entries[2][1].low) == (1.0, 0.0)


def test_what_the_control_restores_too_is_not_restored_and_raises_what_chance_allows():
    """Half of what each patch says, the other's says too."""
    rng = np.random.default_rng(0)
    pairs = chain_pairs(rng, 200)
    own, control = rng.random((200, 5)) < 0.4, rng.random((200, 5)) < 0.4
    table = strata_finding(planted(pairs, own, control), "x", SHARE).main
    assert sum(e.restored for row in table.entries for e in row) == (own & ~control).sum()
    assert table.chance == pytest.approx(control.mean())
    assert not any(e.counts for row in table.entries for e in row)
    assert all(np.isfinite(carried.most) for carried in table.carried)


def test_pairs_without_a_control_are_not_counted_where_the_run_has_one():
    """Own and control restore alike; of half of the pairs the control is not known."""
    pairs = [(2, 1, ())] * 40
    said = np.ones((40, 1))
    control = np.where(np.arange(40)[:, None] < 20, np.nan, said)
    table = strata_finding(planted(pairs, said, control), "x", SHARE).main
    assert counts_of(table) == [["2", "1", "0/20"]]
    assert (table.chance, table.control_n) == (1.0, 20)


def test_without_a_control_it_is_relative_to_the_unpatched_run():
    pairs = [(2, 1, ()), (2, 2, ())] * 10
    base = [row < 4 for row in range(20)]
    own = [[step == 1] for _, step, _ in pairs]
    table = strata_finding(planted(pairs, own, has_control=False, base=base), "x", SHARE).main
    assert counts_of(table) == [["2", "1", "8/10"], ["2", "2", "0/10"]]
    assert (table.control_restored, table.carried[0].step) == (0, 1)


def test_noising_counts_the_corrupted_answer():
    pairs = [(2, 1, ()), (2, 2, ())] * 10
    own = [[step == 1] for _, step, _ in pairs]
    table = strata_finding(planted(pairs, own, direction="noising"), "x", SHARE).main
    assert counts_of(table) == [["2", "1", "10/10"], ["2", "2", "0/10"]]
    assert table.carried[0].step == 1


def test_pairs_without_steps_are_one_stratum_with_counts():
    own = [[row < 15, False] for row in range(30)]
    finding = strata_finding(planted([(None, None, ())] * 30, own), "x", SHARE)
    assert counts_of(finding.main) == [["None", "None", "15/30", "0/30"]]
    assert np.isnan([finding.depends, finding.explained]).all()
    # the probability rises by 0.9 or 0: a quarter of the values is not within 0.05 of 0 or 1
    assert finding.bimodal == 0.75
    first, second = finding.main.carried
    assert (first.step, first.restored, first.n, second.step) == (None, 15, 30, None)
    assert np.isnan(first.most)
    assert second.most == pytest.approx(1 - 0.025 ** (1 / 30))


def test_an_effect_that_is_not_known_is_none_and_tells_of_no_kind_of_effect():
    """The patch of one of ten pairs of step 2 says nothing: step 1 is all that differs.

    Of 19 effects that are known, 9 are 0 and 10 are 0.9.
    """
    pairs = [(2, 1, ()), (2, 2, ())] * 10
    own = np.array([[float(step == 1)] for _, step, _ in pairs])
    own[1] = np.nan
    finding = strata_finding(planted(pairs, own), "x", SHARE)
    assert (finding.depends, finding.explained) == (1 / 2000, 1.0)
    assert finding.bimodal == pytest.approx(9 / 19)


def test_pairs_whose_changed_step_is_not_known_are_counted_and_tell_of_no_step():
    """Step 1 is restored and step 2 is not; of the others half is."""
    pairs = [(2, 1, ()), (2, 2, ()), (2, None, ()), (2, None, ())] * 10
    own = [[row % 4 in (0, 2)] for row in range(40)]
    finding = strata_finding(planted(pairs, own), "x", SHARE)
    assert counts_of(finding.main) == [
        ["2", "1", "10/10"],
        ["2", "2", "0/10"],
        ["2", "None", "10/20"],
    ]
    (found,) = finding.main.carried
    assert (found.step, found.restored, found.n) == (1, 10, 10)
    assert (found.others_restored, found.others_n) == (0, 10)
    assert (finding.depends, finding.explained) == (1 / 2000, 1.0)


def test_kind_and_explained_share_of_effects_are_relative_to_the_control():
    """Of ten pairs that are restored five are by the control's patch too: five of 20 differ.

    Squares between the steps are 10 (0.225² + 0.225²) = 1.0125, in all 5 · 0.9² - 20 · 0.225².
    """
    pairs = [(2, 1, ()), (2, 2, ())] * 10
    own = [[step == 1] for _, step, _ in pairs]
    control = [[row % 4 == 0] for row in range(20)]
    finding = strata_finding(planted(pairs, own, control), "x", SHARE)
    assert (finding.bimodal, finding.explained) == (0.75, pytest.approx(1.0125 / 3.0375))


def test_lengths_alone_explain_nothing():
    pairs = [(2, None, ()), (3, None, ())] * 10
    finding = strata_finding(planted(pairs, [[row % 2 == 0] for row in range(20)]), "x", SHARE)
    assert np.isnan([finding.depends, finding.explained]).all()


def test_own_fields_of_the_file_are_strata_too_and_are_tested():
    data = planted([(None, None, ())] * 30, [[row % 2 == 0] for row in range(30)])
    described = pairs_of(data)
    for row in range(30):
        described[row] = replace(described[row], fields={"sort": "even" if row % 2 == 0 else "odd"})
    column = np.empty(30, dtype=object)
    column[:] = described
    data = data.assign_coords(description=("pair", column))
    finding = strata_finding(data, "x", SHARE, fields=("sort",))
    rows = zip(finding.main.strata, finding.main.entries, strict=True)
    found = [(stratum.field, entry.restored, entry.n) for stratum, (entry,) in rows]
    assert found == [(None, 15, 30), (("sort", "even"), 15, 15), (("sort", "odd"), 0, 15)]
    assert (finding.depends, finding.explained) == (1 / 2000, 1.0)


def test_under_four_pairs_there_are_counts_alone():
    pairs = [(2, 1, ())] * 3 + [(2, 2, ())] * 20
    own = [[step == 1] for _, step, _ in pairs]
    table = strata_finding(planted(pairs, own), "x", SHARE).main
    assert [row[0].counts for row in table.entries] == [False, False]
    assert (table.entries[0][0].restored, table.carried[0].step) == (3, None)


def test_pairs_of_one_question_count_once():
    """Twenty pairs of three questions restore no more than three."""
    pairs = [(2, 1, ())] * 20 + [(2, 2, ())] * 20
    own = [[step == 1] for _, step, _ in pairs]
    groups = [row % 3 if row < 20 else row for row in range(40)]
    table = strata_finding(planted(pairs, own, groups=groups), "x", SHARE).main
    assert (table.entries[0][0].restored, table.entries[0][0].counts) == (20, False)
    assert table.entries[0][0].low == pytest.approx(0.025 ** (1 / 3))


def test_structural_zeros_are_not_tested_and_main_layer_is_where_effects_are():
    pairs = [(2, 1, ()), (2, 2, ())] * 10
    data = planted(pairs, [[step == 1, False] for _, step, _ in pairs], layers=3)
    for metric in ("predicts_clean", "clean_probability"):
        data[metric][{"layer": 0, "arm": 0}] = 0
    zero = np.zeros((3, 2), dtype=bool)
    zero[:, 1] = True
    data = data.assign_coords(structural_zero=(("layer", "column"), zero))
    finding = strata_finding(data, "x", SHARE)
    assert finding.main.layer == "1"
    assert [c.column for c in finding.main.carried] == ["0"]
    assert finding.main.control_n == 20
    assert [c.step for c in finding.others[0].carried] == [None]


def test_main_layer_ties_within_the_error_of_groups():
    """Layer 0 is 0.05 behind: its error is 0.03 over 20 pairs, and 0.13 of two questions."""
    behind = np.repeat([[0.18], [-0.08]], 10, axis=0) + np.tile([[0.01], [-0.01]], (10, 1))
    effects = [np.stack([0.5 - behind, np.full_like(behind, 0.5)], axis=1)]
    structural = np.zeros((2, 1), dtype=bool)
    alone, together = [f"p{row}" for row in range(20)], ["a"] * 10 + ["b"] * 10
    assert strata._largest(effects, structural, alone) == 1
    assert strata._largest(effects, structural, together) == 0


def test_source_that_is_not_the_pairs_own_has_no_strata():
    data = planted([(2, 1, ()), (2, 2, ())] * 5, [[True]] * 10)
    data.attrs["run"] = replace(run_of(data), source="zero")
    assert strata_finding(data, "x", SHARE) is None


def test_without_an_effect_that_is_known_the_first_layer_is_the_main_one():
    unknown = [np.full((20, 3, 1), np.nan)]
    names = [f"p{row}" for row in range(20)]
    assert strata._largest(unknown, np.zeros((3, 1), dtype=bool), names) == 0
    assert strata._largest(unknown, np.ones((3, 1), dtype=bool), names) == 0


def test_main_layer_is_that_of_the_largest_of_the_smaller_effects():
    """Layer 0 gains more unpatched, layer 1 over the control; layer 2's cell is read by nothing."""
    unpatched = np.tile([0.9, 0.5, 1.0], (20, 1))[:, :, None]
    control = np.tile([0.3, 0.4, 1.0], (20, 1))[:, :, None]
    structural = np.array([[False], [False], [True]])
    names = [f"p{row}" for row in range(20)]
    assert strata._largest([unpatched, control], structural, names) == 1
    assert strata._largest([unpatched], structural, names) == 0
    assert strata._largest([control, unpatched], ~structural, names) == 2


def test_layers_tie_within_rounding_where_nothing_varies():
    names = [f"p{row}" for row in range(20)]
    structural = np.zeros((2, 1), dtype=bool)
    for behind, layer in ((9e-7, 0), (1.1e-6, 1)):
        effects = [np.tile([0.5 - behind, 0.5], (20, 1))[:, :, None]]
        assert strata._largest(effects, structural, names) == layer


@pytest.mark.parametrize("without", ["predicts_clean", "clean_probability"])
def test_without_metrics_that_say_whether_it_is_restored_there_are_no_strata(without):
    data = planted([(2, 1, ()), (2, 2, ())] * 5, [[True]] * 10)
    assert strata_finding(data, "x", SHARE) is not None
    assert strata_finding(data.drop_vars(without), "x", SHARE) is None


def test_strata_are_in_order_of_steps_what_is_unknown_last():
    pairs = [(3, 2, ()), (None, None, ()), (2, None, ()), (2, 1, ()), (None, 1, ()), (3, 2, ())]
    found, (places,) = strata_of(planted(pairs, [[False]] * 6))
    assert [(s.num_steps, s.changed_step, s.n, s.path) for s in found] == [
        (2, 1, 1, (1, 2)), (2, None, 1, ()), (3, 2, 2, (2, 3)), (None, 1, 1, (1, 2, 3)),
        (None, None, 1, ()),
    ]  # fmt: skip
    assert places.tolist() == [2, 4, 1, 0, 3, 2]


def test_a_path_has_the_steps_that_most_pairs_have():
    """Of four pairs three, and not two; of three pairs two."""
    paths = [(1, 2, 4), (1, 2, 4), (1, 3, 4), (1, 3, 4)]
    (stratum,), _ = strata_of(planted([(4, 1, path) for path in paths], [[False]] * 4))
    assert stratum.path == (1, 4)
    (stratum,), _ = strata_of(planted([(4, 1, path) for path in paths[:3]], [[False]] * 3))
    assert stratum.path == (1, 2, 4)


def test_pairs_without_a_field_are_in_none_of_its_strata():
    data = planted([(2, 1, ())] * 5, [[False]] * 5)
    described = data["description"].copy()
    for row, sort in enumerate(["b", "a", None, "b", "a"]):
        fields = {} if sort is None else {"sort": sort}
        described[row] = replace(described[row].item(), fields=fields)
    data = data.assign_coords(description=described)
    found, (steps, places) = strata_of(data, ("sort",))
    assert [(s.n, s.field) for s in found] == [(5, None), (2, ("sort", "a")), (2, ("sort", "b"))]
    assert (steps.tolist(), places.tolist()) == ([0] * 5, [2, 1, -1, 2, 1])


def test_exact_interval_is_that_of_clopper_and_pearson():
    """Ends at which the tail of the binomial is 2.5 %."""
    low, high = exact_interval(7, 20)
    assert stats.binom.sf(6, 20, low) == pytest.approx(0.025)
    assert stats.binom.cdf(7, 20, high) == pytest.approx(0.025)
    assert exact_interval(1, 20)[0] == pytest.approx(1 - 0.975 ** (1 / 20))
    assert exact_interval(19, 20)[1] == pytest.approx(0.975 ** (1 / 20))
    assert exact_interval(0, 14) == (0.0, pytest.approx(1 - 0.025 ** (1 / 14)))
    assert exact_interval(14, 14) == (pytest.approx(0.025 ** (1 / 14)), 1.0)


def test_permutation_p_by_full_enumeration():
    """Four pairs, two of each label: 2 of the 6 ways are as far apart as these."""
    values = np.array([[0.0], [0.0], [1.0], [1.0]])
    one = np.zeros(4, dtype=int)
    p = permutation_p([values], [np.array([0, 0, 1, 1])], one, np.arange(4), permutations=4000)
    assert p == pytest.approx(1 / 3, abs=0.03)
    constant = permutation_p([values], [one], one, np.arange(4))
    assert np.isnan(constant)


def test_labels_are_permuted_within_lengths_only():
    """The effect depends on the length alone: nothing to find within."""
    lengths = np.repeat([0, 1], 20)
    values = np.random.default_rng(0).normal(lengths[:, None], 0.1, (40, 3))
    labels = np.tile([0, 1], 20) + 2 * lengths
    assert permutation_p([values], [labels], lengths, np.arange(40)) > 0.05
    assert permutation_p([values], [lengths], np.zeros(40, dtype=int), np.arange(40)) == 1 / 2000


def test_explained_share_by_hand():
    """Means 0.5 and 2.5 around 1.5: between 4, within 1, and a cell that does not vary."""
    values = np.array([[0.0, 1], [1, 1], [2, 1], [3, 1]])
    assert explained_share(values, np.array([0, 0, 1, 1])) == pytest.approx(4 / 5)


def test_explained_share_is_of_labels_that_are_known_and_of_cells_that_vary():
    """The fifth pair has no label; the median of three shares, of which two vary, is their mean."""
    values = np.array([[0.0, 1, 0], [1, 1, 1], [2, 1, 0], [3, 1, 1], [99, 5, 9]])
    labels = np.array([0, 0, 1, 1, -1])
    assert explained_share(values, labels) == pytest.approx((4 / 5 + 0) / 2)
    assert np.isnan(explained_share(values[:, 1:2], labels))  # of these four pairs alike
    assert np.isnan(explained_share(values, np.array([0, 0, 0, 0, -1])))
    assert np.isnan(explained_share(values, np.full(5, -1)))


def test_labels_that_are_alike_within_each_length_cannot_be_permuted():
    values = np.random.default_rng(0).normal(size=(8, 1))
    lengths = np.repeat([0, 1], 4)
    assert np.isnan(permutation_p([values], [lengths], lengths, np.arange(8)))
    assert np.isnan(permutation_p([values], [], lengths, np.arange(8)))


def test_pairs_without_a_label_are_not_permuted():
    """The others, which are as far apart as can be, are among four by which p is 1/3."""
    values = np.array([[0.0], [0.0], [1.0], [1.0], [50.0], [-50.0]])
    labels = np.array([0, 0, 1, 1, -1, -1])
    one = np.zeros(6, dtype=int)
    p = permutation_p([values], [labels], one, np.arange(6), permutations=4000)
    assert p == pytest.approx(1 / 3, abs=0.03)


def test_pairs_of_one_group_with_the_same_label_are_permuted_as_one():
    """Each of four pairs three times: p is that of four."""
    values = np.repeat([[0.0], [0.0], [1.0], [1.0]], 3, axis=0)
    labels, groups = np.repeat([0, 0, 1, 1], 3), np.repeat(np.arange(4), 3)
    one = np.zeros(12, dtype=int)
    p = permutation_p([values], [labels], one, groups, permutations=4000)
    assert p == pytest.approx(1 / 3, abs=0.03)


def test_p_of_two_effects_is_the_larger():
    apart, same = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([[0.0], [1.0], [0.0], [1.0]])
    labels, one = np.array([0, 0, 1, 1]), np.zeros(4, dtype=int)
    for effects in ([apart, same], [same, apart]):
        assert permutation_p(effects, [labels], one, np.arange(4), permutations=200) == 1.0


def test_bimodal_share_by_hand():
    assert bimodal_share(np.array([0.0, 0.04, 0.5, 0.97, -1.02])) == 0.8
    assert bimodal_share(np.array([0.049, 0.051, 0.949, 0.951, -1.051, np.nan])) == 0.4
    assert np.isnan(bimodal_share(np.array([np.nan])))
