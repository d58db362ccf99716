"""What is said, word by word: from claims whose numbers a test writes down."""

import re
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
from made_reports import POSITION, claim, comparison, finding, report, strata_of
from results_maker import make, run_of

from codi_patching.analysis.findings import CLAIMED, Claim, Course, Finding, StrataFinding
from codi_patching.analysis.knocked_out import CUT, DIRECT, THROUGH
from codi_patching.analysis.used import BOTH, DIFFERS, NEEDED
from codi_patching.reporting.claims_in_words import (
    attention_sizes,
    carried_title,
    claim_details,
    claim_words,
    courses_named,
    heading,
    later_layers,
    needed_words,
    places,
    steps_named,
    verdict_words,
)
from codi_patching.reporting.console import console_text
from codi_patching.reporting.question_texts import QUESTIONS
from codi_patching.reporting.rows import as_row, more_rows, once, table_rows
from codi_patching.reporting.sentences import (
    headline,
    layers_sentence,
    parts_sentence,
    short_headline,
)

STAIRS = strata_of(
    [("0", 1, 27, 27), ("1", 1, 27, 27), ("2", 2, 26, 26)],
    [(2, 1, [14, 14, 0], 14), (2, 2, [0, 0, 0], 5), (3, 2, [0, 0, 8], 8)],
)
CEILING = claim(None, None, mean=0.79, other=0.78)


def whole(*more, **options):
    """A report of a ceiling, cells and strata."""
    lead = claim("0", "0", mean=0.47, other=0.45)
    return report(
        finding("ceiling", 1, "yes", CEILING),
        finding(
            "cells",
            2,
            "yes",
            lead,
            claims=(lead, claim("1", "0"), claim("0", "2")),
            tied=("a", "b"),
        ),
        finding("strata", 3, "yes", strata=STAIRS),
        *more,
        **options,
    )


def test_the_answer_is_what_is_carried_and_what_is_not():
    assert headline(whole()) == [
        "Together the thoughts carry the answer: taken from the clean run, all of them raise the "
        "probability of the clean answer by 0.78.",
        "Thoughts z0 and z1 carry the result of step 1 and z2 of step 2.",
        "In the 5 pairs in which only the last step changes, no thought is shown to act.",
    ]


def test_noising_speaks_of_the_corrupted_run():
    said = headline(whole(run=run_of(direction="noising")))[0]
    assert "taken from the corrupted run" in said
    assert "the corrupted answer by 0.78" in said


def test_a_last_step_that_counts_is_not_denied():
    strata = strata_of([("0", 2, 5, 5)], [(2, 1, [0], 14), (2, 2, [5], 5)], columns=("0",))
    said = headline(report(finding("strata", 3, "yes", strata=strata)))
    assert said == ["Thought z0 carries the result of step 2."]


def test_a_result_in_some_pairs_is_said_with_their_number():
    strata = strata_of([("0", 1, 12, 27), ("1", 1, 20, 27)], [(2, 1, [12, 20], 27)], ("0", "1"))
    said = headline(report(finding("strata", 3, "yes", strata=strata)))
    assert said[0] == "Thoughts z0 and z1 carry the result of step 1 in 12 of 27 pairs or more."


def test_without_strata_the_places_are_said():
    lead = claim("1", "0", mean=0.5, other=0.4)
    said = headline(report(finding("cells", 2, "yes", lead, claims=(lead, claim("2", "0")))))
    assert said == [
        "Single patches raise the probability of the clean answer at z0 at layers 1 and 2, by up "
        "to 0.40."
    ]


def test_only_counts_are_said_of_what_is_claimed_in_counts():
    lead = claim("1", "0", "more often")
    (said,) = headline(report(finding("cells", 2, "yes", lead)))
    assert said.endswith("at z0 at layer 1, in 20 of 24 pairs.")


def test_nothing_is_one_sentence_with_its_bound():
    cells = tuple(claim(str(i), "0", "at most", bound=b) for i, b in enumerate((0.14, 0.29)))
    nothing = report(finding("cells", 2, "at most", cells[0], claims=cells))
    assert headline(nothing) == [
        "Nothing is claimed: no single patch is shown to raise the probability of the clean "
        "answer; the smaller of the gains over the unpatched run and over the control's patch is "
        "at most 0.29 for each."
    ]


def test_a_few_pairs_are_counted():
    few = claim("0", "0", "counts")
    said = headline(report(finding("cells", 2, "counts", few)))
    assert said == ["Too few pairs for any claim: counts stand alone."]


def test_a_ceiling_that_is_not_shown_is_bounded():
    low = claim(None, None, "at most", bound=0.12)
    said = headline(report(finding("ceiling", 1, "at most", low)))
    assert said[0] == (
        "Not even all thoughts together are shown to carry the answer: the smaller of the gains "
        "over the unpatched run and over the control's patch is at most 0.12."
    )
    alone = Claim("x", "at most", (comparison(-0.2),), 0.4, -0.1)
    said = headline(report(finding("ceiling", 1, "at most", alone)))
    assert said[0].endswith("the gain over the unpatched run is at most 0.")


def layered(kind, layers, verdict="rises"):
    return tuple(claim(str(i), "all", verdict, kind=kind) for i in layers)


def test_direct_and_mediated_name_their_layers():
    claims = (*layered("direct", range(7)), *layered("direct", [7], "at most"))
    claims += layered("mediated", range(7, 10))
    direct = Finding("direct", 4, "yes", ("layer, frozen", "layer, recomputed"), claims[0], claims)
    assert headline(whole(direct))[-1] == (
        "With all thoughts patched at once, a patch acts at layers 0 to 6 through what the readout "
        "sees and at layers 7 to 9 through the thoughts made after it."
    )
    assert (
        as_row(direct, whole(direct)).answer == "direct at layers 0 to 6, mediated at layers 7 to 9"
    )


def test_at_most_four_sentences_without_brackets():
    claims = layered("direct", [0])
    direct = Finding("direct", 4, "yes", ("a", "b"), claims[0], claims)
    said = headline(whole(direct))
    assert len(said) == 4
    assert not any("(" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("rises", "0.40 [0.30, 0.50]"),
        ("more often", "up in 20 of 24 pairs; mean 0.40 [0.30, 0.50]"),
        ("less often", "down in 0 of 24 pairs; mean 0.40 [0.30, 0.50]"),
        ("no", "at most 0.60"),
        ("at most", "at most 0.60"),
        ("counts", "up in 20, down in 0 of 24 pairs"),
    ],
)
def test_numbers_of_a_claim(verdict, words):
    assert claim_words(claim(verdict=verdict)) == words


def test_both_comparisons_are_shown_each_with_its_own_interval():
    first, second = claim_details(claim(mean=0.5, other=0.4))
    assert (
        first
        == "relative to the unpatched run 0.50 [0.40, 0.60], up in 20 and down in 0 of 24 pairs"
    )
    assert second.startswith("relative to the control's patch 0.40 [0.30, 0.50]")


def test_the_lead_of_a_claim_is_the_smaller_gain_and_never_a_hull():
    one = Claim("x", "rises", (comparison(0.6), comparison(-0.2, "control")), 0.01, 0.7)
    assert one.lead.mean == -0.2
    assert (one.lead.low, one.lead.high) == pytest.approx((-0.3, -0.1))


def test_places_join_positions_of_the_same_layers():
    shown = [claim(layer, column) for layer in "012" for column in "01"]
    shown += [claim("1", "2"), claim("2", "2", "at most")]
    assert places(shown) == "z0 and z1 at layers 0 to 2, z2 at layer 1"
    assert places([claim("3", "all"), claim("4", "all")]) == "layers 3 and 4"


def test_scattered_cells_are_counted():
    shown = [claim(str(layer), str(layer % 5)) for layer in range(10)]
    assert places([*shown, claim("11", "0", "no")]) == "10 of 11 cells, of z0, z1, z2, z3 and z4"


def test_courses_are_named_by_layer():
    effects = (claim("0", "0", mean=0.5, other=0.47), claim("0", "1", mean=0.2, other=0.1))
    courses = [Course("0", "fades", effects, None), Course("1", "fades", effects, None)]
    courses += [Course("5", "none", effects, None), Course("7", "compounds", effects, None)]
    chain = finding("chain", 5, "yes", claims=effects, courses=tuple(courses))
    assert courses_named(chain) == "compounds at layer 7, fades at layers 0 and 1"
    assert as_row(chain, report(chain)).estimate == "0.47 → 0.10 at layer 0"


def test_rows_stand_in_the_order_of_the_questions():
    rows = table_rows(
        report(
            finding("cells", 2, "no", claim(verdict="no")), finding("ceiling", 1, "yes", CEILING)
        )
    )
    assert [(row.key, row.answer, row.tone) for row in rows] == [
        ("ceiling", "yes", "yes"),
        ("cells", "no", "no"),
    ]
    assert [row.p for row in rows] == ["0.002", "0.002"]
    keys = ["chain", "read", "attention", "needed", "around"]
    late = [Finding(key, 6, "missing", (), missing=(("x",),)) for key in reversed(keys)]
    assert [row.key for row in table_rows(report(*late))] == keys
    assert len(set(QUESTIONS.values())) == len(QUESTIONS)


def test_what_is_missing_is_a_line_with_the_commands_that_make_it():
    missing = Finding("direct", 4, "missing", (), missing=(("layer",), ("position", "noising")))
    (row,) = table_rows(report(missing))
    assert row.tone == "off"
    assert row.command == (
        "codi-patching predict --config layer; "
        "codi-patching predict --config position --config noising"
    )


def test_further_runs_and_descriptions_follow():
    first, second = (finding("cells", 2, "yes", claim()) for _ in range(2))
    early = claim(None, None, "described", mean=0.08, other=0.07)
    found = report(first, second, finding("early_or_late_layers", None, "described", early))
    assert [row.key for row in table_rows(found)] == ["cells"]
    more = more_rows(found)
    assert [row.key for row in more] == ["cells", "early_or_late_layers"]
    assert more[1].question == "Early or late layers? Position, recomputed"
    assert more[1].p == "–"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.2, "early layers"),
        (-0.2, -0.01, "late layers"),
        (-0.1, 0.1, "neither more than the other"),
    ],
)
def test_which_of_two_sides_carries_more(low, high, words):
    mean = (low + high) / 2
    lead = Claim("early minus late", "described", (comparison(mean, low=low, high=high),), 1.0, 1.0)
    row = as_row(finding("early_or_late_layers", None, "described", lead), saying())
    assert row.answer == words
    row = as_row(finding("early_or_late_positions", None, "described", lead), saying())
    assert row.answer == words.replace("layers", "positions")


def test_what_holds_for_all_lines_names_the_control():
    assert "and to the control's patch, whichever gain is smaller" in once(whole())
    assert "no control was run" in once(report(run=run_of(control="none")))
    assert "falls of the probability of the clean" in once(report(run=run_of(direction="noising")))


def test_what_holds_for_all_lines_where_nothing_was_patched():
    def alone(**had):
        return once(replace(report(), summaries={}, **had))

    assert alone(knockout=object()).startswith("Intervals and p hold for question and thoughts")
    assert alone(lens=object()).startswith("Shares of pairs, beside how often another pair's")
    assert alone() == "Shares of attention, means over pairs; every reader's shares sum to 1."
    knockout = SimpleNamespace(attrs={"run": run_of("knockout")})
    beside = once(replace(report(), knockout=knockout))
    assert "where an edge of attention is cut" in beside
    assert "rises of the probability" in beside


def test_titles_say_what_each_thought_carries():
    assert carried_title(STAIRS) == "z0 and z1 carry the result of step 1, z2 step 2."
    one = strata_of([("0", 2, 27, 27)], [(2, 2, [14], 14)], columns=("0",))
    assert carried_title(one) == "z0 carries the result of step 2."
    none = strata_of([("0", None, 2, 27)], [(2, 2, [2], 14)], columns=("0",))
    assert short_headline(saying(finding("strata", 3, "yes", strata=none))) == ""


def test_a_step_can_be_read_and_not_used():
    read = [claim("3", "0", kind="read", step=1), claim("3", "1", kind="read", step=2)]
    read += [claim("3", "2", "less often", kind="read", step=3)]  # which chance reads more often
    acting = [claim("3", "1", kind=DIFFERS, step=2), claim("3", "0", "no", kind=DIFFERS, step=1)]
    assert steps_named([*read, claim("3", "2", kind=DIFFERS, step=3)]) == "steps 1 and 2"
    claims, counted = (*read, *acting), (("read", 2.0), ("read and used", 1.0))
    both = finding("read", 6, "yes", read[0], claims=claims, numbers=counted)
    row = as_row(both, report(both))
    assert row.answer == "step 2: read where a patch acts"
    assert row.estimate == "read in 2 cells, acting in 1"
    alone = finding("read", 6, "described", read[0], claims=tuple(read))
    row = as_row(alone, report(alone))
    assert (row.answer, row.p, row.tone) == ("steps 1 and 2 can be read", "–", "open")
    assert headline(report(alone)) == [
        "The head reads the result of steps 1 and 2 in the thoughts."
    ]


def test_what_falls_is_needed_only_where_it_also_restores():
    falls = claim("1", "0", kind=NEEDED), claim("2", "0", kind=BOTH), claim("3", "0", "no")
    both = finding("needed", 8, "yes", falls[0], claims=falls)
    assert as_row(both, report(both)).answer == "yes, at z0 at layer 2"
    said = headline(report(both))
    assert said == ["What restores the answer is also needed for it, at z0 at layer 2."]
    alone = finding("needed", 8, "described", falls[0], claims=(falls[0], falls[2]))
    assert as_row(alone, report(alone)).answer == "the answer falls at z0 at layer 1"
    said = headline(report(alone, run=run_of(direction="noising")))
    assert said == ["Noising lowers the probability of the clean answer at z0 at layer 1."]


def test_layers_of_what_is_carried_and_of_what_comes_one_thought_later():
    steps = {layer: [1, 1, 2] if layer < 3 else [1, 2, None] for layer in range(6)}
    tables = [
        strata_of(
            [(str(z), step, 9, 9) for z, step in enumerate(own)], [(2, 1, [9], 9)], layer=str(n)
        ).main
        for n, own in steps.items()
    ]
    strata = StrataFinding(tables[0], tuple(tables), 0.0005, 0.97, 0.99)
    said = headline(report(finding("strata", 3, "yes", strata=strata)))
    assert said[:2] == [
        "At layers 0 to 2, thoughts z0 and z1 carry the result of step 1 and z2 of step 2.",
        "At layers 3 to 5 each thought carries what the next one does there.",
    ]


def test_the_console_is_short_and_harmless():
    claims = layered("direct", range(7))
    direct = Finding("direct", 4, "yes", ("a", "b"), claims[0], claims)
    text = console_text(whole(direct, run=run_of(excluded={"p\x1b[31m": "too \u202elong"})))
    assert len(text.splitlines()) <= 40
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", text)
    assert "p [31m: too  long" in text
    assert "answered right without patches: 24 source and 24 base questions" in text


def test_every_claimed_verdict_is_worded():
    assert all(claim_words(claim(verdict=verdict)) for verdict in CLAIMED)


# -- claims of every kind in words --------------------------------------------------------------


@cache
def of_one_run():
    return report(pairs=2)


def saying(*findings):
    """A report of these findings."""
    return replace(of_one_run(), findings=findings)


def cut(edge, verdict="rises", mean=0.4, kind=CUT, low=None, n=24, bound=0.3):
    """A claim about an edge of attention that is cut, relative to the uncut run and the control."""
    both = (comparison(mean + 0.1, up=20, down=3, n=n), comparison(mean, "control", low, n=n))
    return Claim(f"{edge}, all layers", verdict, both, 0.004, bound, "all", edge, kind, axis="edge")


def around(direct, through=None, answer="yes", **more):
    claims = tuple(claim for claim in (direct, through) if claim)
    return Finding("around", 8, answer, ("knockout",), claims[0], claims, **more)


@pytest.mark.parametrize(
    ("verdict", "of_edge", "of_models"),
    [
        ("rises", "the answer falls", "A carries more"),
        ("falls", "the answer rises", "B carries more"),
        ("more often", "the answer falls in more pairs", "A carries more in more pairs"),
        ("less often", "the answer rises in more pairs", "B carries more in more pairs"),
        ("at most", "at most", "at most"),
        ("described", "described", "described"),
    ],
)
def test_verdicts_on_edges_and_between_models(verdict, of_edge, of_models):
    edges = around(cut(DIRECT, verdict))
    assert verdict_words(edges.lead, edges) == of_edge
    for key in ("between_models", "between_ceilings"):
        between = Finding(key, None, "yes", ("A: run", "B: run"))
        assert verdict_words(claim(verdict=verdict), between) == of_models
    assert verdict_words(claim(verdict=verdict), finding("cells", 2, "yes")) == verdict


def test_each_comparison_says_what_it_is_relative_to():
    assert claim_details(cut(DIRECT)) == [
        "relative to the uncut run 0.50 [0.40, 0.60], lower in 20 and higher in 3 of 24 pairs",
        "relative to the control's cut 0.40 [0.30, 0.50], lower in 20 and higher in 0 of 24 pairs",
    ]
    read = Claim("a", "rises", (comparison(0.5, "chance", up=9, down=2),), 0.01, 0.6, kind="read")
    assert claim_details(read) == [
        "relative to another pair's result 0.50 [0.40, 0.60], up in 9 and down in 2 of 24 pairs"
    ]
    share = Claim("a", "described", (comparison(0.5, "nothing"),), 1.0, 1.0)
    assert claim_details(share) == ["0.50 [0.40, 0.60]"]


@pytest.mark.parametrize(
    ("direct", "through", "answer", "words"),
    [
        ("rises", "rises", "yes", "yes, and from the thoughts"),
        ("rises", "no", "yes", "yes; the thoughts are not needed"),
        ("rises", "at most", "yes", "yes; the thoughts are not shown to be needed"),
        ("rises", None, "yes", "yes; the thoughts are not shown to be needed"),
        ("no", "more often", "no", "no; from them"),
        ("at most", "rises", "at most", "not shown; from them"),
        ("at most", "no", "at most", "not shown; the thoughts are not needed"),
        ("counts", "counts", "counts", "counts alone"),
    ],
)
def test_whether_the_answer_needs_the_question_and_the_thoughts(direct, through, answer, words):
    own = around(cut(DIRECT, direct), through and cut(THROUGH, through), answer)
    assert as_row(own, saying(own)).answer == words


def test_sizes_of_both_ways_to_the_answer_stand_in_their_order():
    own = around(cut(DIRECT, mean=0.6), cut(THROUGH, "at most", bound=0.07))
    assert as_row(own, saying(own)).estimate == (
        "question → readout 0.60 [0.50, 0.70]; thoughts → readout at most 0.07"
    )


def edges_of(*claims):
    return Finding("edges", None, "described", ("knockout",), claims[0], claims)


def test_what_the_answer_loses_most_with_is_said_with_its_number_of_steps():
    one = cut("1->readout", "described", 0.4)
    less = cut("0->readout", "described", 0.2)
    assert needed_words(edges_of(less, one)) == "z1 → readout 0.40"
    assert as_row(edges_of(less, one), saying()).answer == "z1 → readout 0.40"
    assert as_row(edges_of(less, one), saying()).n == "24"
    two, three = f"{CUT}, 1 steps", f"{CUT}, 3 steps"
    parts = (replace(one, kind=two), replace(less, kind=three))
    assert needed_words(edges_of(*parts)) == (
        "z1 → readout 0.40 in problems of 1 step and z0 → readout 0.20 of 3"
    )
    assert as_row(edges_of(*parts), saying()).n == "48"
    assert needed_words(edges_of(parts[1])) == "z0 → readout 0.20 in problems of 3 steps"
    nothing = cut("0->readout", "described", 0.01)
    assert needed_words(edges_of(nothing)) == ""
    row = as_row(edges_of(nothing), saying())
    assert (row.answer, row.n, row.p) == ("most: 0->readout, all layers", "", "–")


def look(length, layer, column, mean):
    kind = f"{length} steps" if length else "attention"
    share = (comparison(mean, "nothing", n=12),)
    return Claim(f"layer {layer}", "described", share, 1.0, 1.0, layer, column, kind, "rate")


def attention(*claims, **numbers):
    numbers = {"evenly spread": 0.05, **{name.replace("_", " "): v for name, v in numbers.items()}}
    return Finding(
        "attention", 6, "described", ("attention",), claims[0], claims,
        numbers=tuple(numbers.items()),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("looks", "words", "sizes", "n"),
    [
        ([(None, "1", "2", 0.6)], "z2", "0.60 at layer 1", "12"),
        ([(2, "1", "2", 0.6), (3, "1", "2", 0.7)], "z2, whatever the number of steps",
         "0.60 and 0.70 at layer 1", "24"),
        ([(1, "1", "2", 0.6), (3, "4", "0", 0.7)], "z2 in problems of 1 step and z0 of 3",
         "0.60 at layer 1 and 0.70 at layer 4", "24"),
        ([(2, "1", "2", 0.6), (2, "5", "0", 0.4)], "z2", "0.60 at layer 1", "12"),
    ],
)  # fmt: skip
def test_where_the_token_before_the_answer_looks(looks, words, sizes, n):
    own = attention(*(look(*each) for each in looks))
    row = as_row(own, saying())
    assert (row.answer, row.estimate, row.n) == (
        f"most to {words}", f"{sizes}; 0.05 if spread evenly", n,
    )  # fmt: skip
    assert headline(saying(own)) == [
        f"The token before the answer attends most to {words}: {sizes}; 0.05 if spread evenly."
    ]


def test_what_acts_stands_beside_what_is_attended_to():
    known = {"cells": 20.0, "acting": 6.0, "acting,_hardly_seen": 2.0, "rank_agreement": 0.31}
    said = attention_sizes(attention(look(None, "1", "2", 0.6), **known))
    assert said == (
        "0.60 at layer 1; 6 of 20 cells act, 2 of them hardly seen; rank agreement with the share "
        "above 0.31"
    )
    known |= {"acting,_hardly_seen": 0.0, "rank_agreement": float("nan")}
    said = attention_sizes(attention(look(None, "1", "2", 0.6), **known))
    assert said == "0.60 at layer 1; 6 of 20 cells act"


def test_places_are_named_by_what_their_columns_are():
    heads = [replace(claim(layer, "2"), axis="head") for layer in "01"]
    assert places(heads) == "head 2 at layers 0 and 1"
    assert places([replace(claim("0", "1"), axis="iteration")]) == "z1 at layer 0"
    assert places([claim("0", "number"), claim("0", "question end"), claim("0", "1")]) == (
        "the changed number, the question's last token and z1 at layer 0"
    )
    assert places([claim(None, None)]) == "some layers"
    assert places([claim(verdict="no")]) == places([]) == ""
    assert places([claim("1", "0", "falls"), claim("2", "0")], ("falls",)) == "z0 at layer 1"
    scattered = [claim(str(n), str(c)) for n, c in enumerate((10, 9, 0, 1, 2))]
    assert places(scattered) == "5 of 5 cells, of z0, z1, z2, z9 and z10"


@pytest.mark.parametrize(
    ("kinds", "words", "sizes"),
    [
        ((("direct", "at most"), ("mediated", "no")), "not shown", "at most 0.60"),
        ((("direct", "more often"),), "direct at layer 0",
         "up in 20 of 24 pairs; mean 0.40 [0.30, 0.50] at layer 0, position all"),
        ((("mediated", "less often"), ("direct", "falls")),
         "undone by later thoughts at layer 0",
         "down in 0 of 24 pairs; mean 0.40 [0.30, 0.50]"),
    ],
)  # fmt: skip
def test_parts_that_are_not_shown_have_no_place(kinds, words, sizes):
    claims = tuple(claim(str(n), "all", v, kind=k) for n, (k, v) in enumerate(kinds))
    own = Finding("direct", 4, "at most", ("a", "b"), claims[0], claims)
    row = as_row(own, saying())
    assert (row.answer, row.estimate) == (words, sizes)
    assert as_row(replace(own, answer="no"), saying()).answer == words.replace("not shown", "no")


def test_chains_are_named_by_each_thing_they_do_and_told_apart_from_none():
    def course(layer, name, first):
        return Course(layer, name, (claim(layer, "0", mean=first, other=first),), None)

    names = ("turns", "saturates", "none", "open", "fades", "compounds")
    courses = tuple(course(str(n), name, 0.1 * (n + 1)) for n, name in enumerate(names))
    chain = finding("chain", 5, "yes", courses=courses)
    assert courses_named(chain) == (
        "compounds at layer 5, saturates at layer 1, fades at layer 4, turns at layer 0"
    )
    nothing = finding("chain", 5, "at most", courses=courses[2:4])
    row = as_row(nothing, saying())
    assert row.answer == "no change along the chain is claimed"
    assert row.estimate == "0.40 at layer 3"
    some = finding("chain", 5, "yes", courses=courses[1:4])
    assert as_row(some, saying()).estimate == "0.20 at layer 1"


def test_what_is_described_falls_back_to_its_lead():
    lead = claim("1", "0", "described")
    for own, words in (
        (finding("read", 6, "described"), "nothing read"),
        (finding("read", 6, "described", claim(kind="read", step=3)), "step 3 can be read"),
        (finding("needed", 8, "described", claim(verdict="at most")),
         "the answer is not shown to fall"),
        (finding("disruption", None, "described", lead), "most at layer 1, position 0"),
        (finding("my_own", None, "described", lead), "at layer 1, position 0"),
        (finding("my_own", None, "described"), "at no cell"),
        (finding("leading", None, "described", lead), "by rank"),
    ):  # fmt: skip
        assert as_row(own, saying()).answer == words
    assert as_row(finding("my_own", None, "described"), saying()).question.startswith("my_own ")


def test_numbers_stand_for_what_has_no_lead_four_at_most():
    numbers = tuple((name, value) for name, value in zip("abcde", (0.11, 0.22, 0.33, 0.44, 0.55)))
    own = finding("leading", None, "described", numbers=numbers)
    assert as_row(own, saying()).estimate == "a 0.11, b 0.22, c 0.33, d 0.44"


@pytest.mark.parametrize(
    ("answer", "p", "tone", "words"),
    [
        ("yes", "0.002", "yes", "yes"), ("no", "0.002", "no", "no"),
        ("at most", "0.002", "open", "not shown"), ("counts", "0.002", "open", "counts alone"),
        ("described", "–", "open", "at layer 1, position 0"),
    ],
)  # fmt: skip
def test_p_and_tone_of_every_answer(answer, p, tone, words):
    row = as_row(finding("ceiling", 1, answer, claim()), saying())
    assert (row.p, row.tone, row.answer) == (p, tone, words)


def test_questions_that_are_asked_of_several_runs_are_named():
    runs = ("position, recomputed", "position, frozen")
    first, second = (replace(finding("cells", 2, "yes", claim()), runs=(run,)) for run in runs)
    missing = Finding("cells", 2, "missing", (), missing=(("x",),))
    asked = "Which positions and layers?"
    assert as_row(first, saying(first, missing)).question == asked
    assert as_row(second, saying(first, second)).question == f"{asked} Position, frozen"
    both = replace(first, runs=runs)
    assert as_row(both, saying(first, second)).question == (
        f"{asked} Position, recomputed and position, frozen"
    )


# -- the answer in other cases ------------------------------------------------------------------


def test_what_may_be_carried_in_shorter_problems_is_said():
    strata = strata_of([("0", 1, 9, 9), ("1", 2, 9, 10)], [(2, 1, [9, 9], 9)], ("0", "1"))
    carried = (*strata.main.carried, replace(strata.main.carried[1], step=None, lengths=(2,)))
    shorter = replace(strata, main=replace(strata.main, carried=carried))
    said = headline(saying(finding("strata", 3, "yes", strata=shorter)))
    assert said[0] == (
        "Thought z0 carries the result of step 1 and z1 of step 2; in shorter problems the later "
        "thoughts are not shown to carry any."
    )


def test_steps_are_told_in_their_order_each_with_the_first_of_its_lengths():
    rows = [(2, 1, [9, 9, 0], 9)]
    shown = [("0", 2, 9, 9), ("1", 1, 6, 9), ("1", 1, 3, 9), ("2", None, 0, 9)]
    strata = finding("strata", 3, "yes", strata=strata_of(shown, rows))
    assert headline(saying(strata)) == [
        "Thought z1 carries the result of step 1 in 6 of 9 pairs and z0 of step 2."
    ]
    assert as_row(strata, saying()).estimate == "9/9, 6/9, 0/9"


def test_the_weakest_share_says_in_how_many_pairs():
    strata = strata_of([("0", 1, 5, 10), ("1", 1, 6, 20)], [(2, 1, [5, 6], 20)], ("0", "1"))
    said = headline(saying(finding("strata", 3, "yes", strata=strata)))
    assert said == ["Thoughts z0 and z1 carry the result of step 1 in 6 of 20 pairs or more."]
    nearly = strata_of([("0", 1, 8, 9)], [(2, 1, [8], 9)], ("0",))
    said = headline(saying(finding("strata", 3, "yes", strata=nearly)))
    assert said == ["Thought z0 carries the result of step 1 in 8 of 9 pairs."]


def test_a_last_step_that_is_carried_in_its_own_lengths_is_not_denied():
    strata = strata_of([("0", 2, 9, 9)], [(2, 1, [9], 9), (2, 2, [0], 5)], ("0",))
    assert len(headline(saying(finding("strata", 3, "yes", strata=strata)))) == 2
    for lengths, sentences in (((2, 3), 2), ((2,), 1)):
        carried = (replace(strata.main.carried[0], lengths=lengths),)
        own = replace(strata, main=replace(strata.main, carried=carried))
        assert len(headline(saying(finding("strata", 3, "yes", strata=own)))) == sentences


def tables_of(*steps):
    tables = [
        strata_of(
            [(str(z), step, 9, 9) for z, step in enumerate(own)],
            [(3, 1, [9], 9)], tuple(map(str, range(len(own)))), str(layer),
        ).main
        for layer, own in enumerate(steps)
    ]  # fmt: skip
    return StrataFinding(tables[0], tuple(tables), 0.0005, 0.97, 0.99)


@pytest.mark.parametrize(
    ("steps", "layers"),
    [
        (([1, 2, 3], [2, 3, None], [2, 3, 3], [2, 2, None]), ["1"]),
        (([1, None, None], [None, None, None]), []),
        (([None, None, None], [None, None, None]), []),
        (([1, 1, None], [1, None, None]), ["1"]),
    ],
)
def test_layers_at_which_each_thought_carries_the_next_ones(steps, layers):
    assert later_layers(tables_of(*steps)) == layers


def test_the_head_reads_nothing_that_is_not_claimed():
    unread = finding("read", 6, "at most", claim(verdict="at most", kind="read", step=1))
    assert headline(saying(unread)) == [
        "Nothing is claimed: no question of this report could be tested."
    ]


def test_only_one_sentence_is_on_what_is_needed_and_a_lead_is_no_place():
    falls = finding("needed", 8, "described", claim("1", "0", kind=NEEDED))
    both = finding("needed", 8, "yes", claim("2", "0", kind=BOTH))
    assert headline(saying(falls, both)) == [
        "Noising lowers the probability of the clean answer at z0 at layer 1."
    ]
    tested = finding("needed", 8, "at most", claim("1", "0", kind=NEEDED))
    assert headline(saying(tested))[0].startswith("Nothing is claimed")


def test_an_edge_whose_fall_is_counted_is_said_in_pairs():
    own = around(cut(DIRECT, "more often", mean=0.3), cut(THROUGH, "falls"))
    edges = edges_of(cut("1->readout", "described", 0.4))
    assert headline(saying(own)) == [
        "With the question hidden from the readout the answer becomes less probable in 20 of 24 "
        "pairs."
    ]
    assert headline(saying(own, edges))[1:] == [
        "Of single thoughts the answer loses most without z1 → readout 0.40."
    ]


def test_at_most_four_sentences_of_which_the_last_is_whether_effects_are_direct():
    direct = layered("direct", [0])
    parts = Finding("direct", 4, "yes", ("a", "b"), direct[0], direct)
    chain = replace(
        finding("chain", 5, "yes", courses=(Course("0", "fades", (claim(),), None),)),
        runs=("neighbours",),
    )
    told = "Along the chain the effect of the chain fades at layer 0."
    read = finding("read", 6, "described", claim(kind="read", step=1))
    assert headline(whole(chain, read, parts))[3].startswith("With all thoughts patched at once")
    single = tuple(replace(c, column="0") for c in direct)
    parts = Finding("direct", 4, "yes", ("a", "b"), single[0], single)
    assert headline(saying(finding("ceiling", 1, "yes", CEILING), chain, read, parts))[1:] == [
        "A patch of one thought acts at z0 at layer 0 through what the readout sees.", told,
    ]  # fmt: skip
    assert headline(saying(finding("ceiling", 1, "yes", CEILING), chain, read))[1:] == [
        told, "The head reads the result of step 1 in the thoughts.",
    ]  # fmt: skip


def test_a_model_that_feeds_nothing_back_is_said_to_second():
    pause = run_of(checkpoint={"feeds_back": False})
    claims = layered("direct", [0])
    direct = Finding("direct", 4, "yes", ("a", "b"), claims[0], claims)
    said = headline(whole(direct, run=pause))
    assert len(said) == 4
    assert said[1].startswith("This model feeds nothing back: its thoughts are learned vectors")
    assert said[2].startswith("Thoughts z0 and z1 carry")


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (around(cut(DIRECT, "at most", bound=0.3), answer="at most"),
         "with the question hidden from the readout the answer's probability falls by at most "
         "0.30."),
        (around(cut(DIRECT, "no", bound=-0.2), answer="no"),
         "with the question hidden from the readout the answer's probability falls by at most 0."),
        (finding("chain", 5, "no", claim("0", bound=0.1), claims=(
            claim("0", bound=0.1), claim("1", bound=0.2), claim("2", bound=-0.3))),
         "no change along the chain is shown, each is at most 0.20."),
        (finding("read", 6, "described"), "no question of this report could be tested."),
        (finding("cells", 2, "at most", claim(verdict="at most", bound=-0.1)),
         "no single patch is shown to raise the probability of the clean answer; the smaller of "
         "the gains over the unpatched run and over the control's patch is at most 0 for each."),
    ],
)  # fmt: skip
def test_nothing_is_bounded_by_what_was_asked(own, said):
    assert headline(saying(own)) == [f"Nothing is claimed: {said}"]


def test_too_few_pairs_are_said_of_any_question():
    few = "Too few pairs for any claim: counts stand alone."
    assert headline(saying(finding("ceiling", 1, "counts", claim(verdict="counts")))) == [few]
    both = tuple(claim(str(n), verdict=v) for n, v in enumerate(("counts", "at most")))
    said = headline(saying(finding("cells", 2, "at most", both[0], claims=both)))
    assert said[0].startswith("Nothing is claimed: no single patch")


def test_where_patches_act_is_of_the_first_run_in_which_they_do():
    no = finding("cells", 2, "at most", claim("0", "0", "at most"))
    yes, later = (finding("cells", 2, "yes", claim(layer, "0")) for layer in "12")
    assert headline(saying(no, yes, later)) == [
        "Single patches raise the probability of the clean answer at z0 at layer 1, by up to 0.40."
    ]


def test_whether_effects_are_direct_is_said_after_three_sentences_at_most():
    """The one on the last step gives way to it."""
    tables = tuple(
        strata_of(
            [("0", own[0], 9, 9), ("1", own[1], 9, 9)],
            [(2, 1, [9, 9], 9), (2, 2, [0, 0], 5)], ("0", "1"), str(layer),
        ).main
        for layer, own in enumerate(([1, 2], [2, None]))
    )  # fmt: skip
    strata = finding("strata", 3, "yes", strata=StrataFinding(tables[0], tables, 0.0005, 0.9, 0.9))
    direct = layered("direct", [0])
    parts = Finding("direct", 4, "yes", ("a", "b"), direct[0], direct)
    found = (finding("ceiling", 1, "yes", CEILING), strata)
    said = headline(saying(*found))
    assert said[3].startswith("In the 5 pairs in which only the last step changes")
    assert headline(saying(*found, parts)) == [
        *said[:3],
        "With all thoughts patched at once, a patch acts at layer 0 through what the readout sees.",
    ]


def test_what_is_needed_is_said_before_edges_and_these_before_attention():
    needed = finding("needed", 8, "described", claim("1", "0", kind=NEEDED))
    said = headline(saying(attention(look(None, "1", "2", 0.6)), around(cut(DIRECT)), needed))
    assert [sentence.partition(" ")[0] for sentence in said] == ["Noising", "With", "The"]


@pytest.mark.parametrize(("verdict", "bound"), [("no", 0.05), ("at most", 0.12)])
def test_a_ceiling_that_is_none_is_bounded_too(verdict, bound):
    low = finding("ceiling", 1, verdict, claim(None, None, verdict, bound=bound))
    said = headline(saying(low))[0]
    assert said.startswith("Not even all thoughts together")
    assert said.endswith(f"is at most {bound:.2g}.")


def test_pairs_that_are_restored_without_a_step_carry_none():
    strata = strata_of([("0", None, 5, 9)], [(2, 1, [5], 9)], ("0",))
    cells = finding("cells", 2, "yes", claim("1", "0"))
    assert headline(saying(finding("strata", 3, "yes", strata=strata), cells)) == [
        "Single patches raise the probability of the clean answer at z0 at layer 1, by up to 0.40."
    ]


def test_a_bound_is_of_both_gains_whichever_is_smaller():
    lead = claim("1", "0", "at most", mean=0.3, other=0.4)
    said = headline(saying(finding("cells", 2, "at most", lead)))
    assert "; the smaller of the gains over the unpatched run and over the control's" in said[0]


def test_layers_that_fall_do_not_rise_and_runs_that_were_not_tested_are_no_others():
    up, down, few = (layered("content", [n], v) for n, v in enumerate(("rises", "falls", "counts")))
    said = "P(source answer) rises at layer 0 (a), no layer (b)."
    assert layers_sentence({"a": up, "b": down}) == said
    assert layers_sentence({"a": up, "b": few}) == said
    rises = "P(source answer) rises at layer 0 (a), no layer (b; c)."
    assert layers_sentence({"a": up, "b": down, "c": few, "d": ()}) == rises
    assert layers_sentence({"a": up, "b": ()}) == "P(source answer) rises at layer 0 (a)."
    assert layers_sentence({"a": up, "b": up}) == "P(source answer) rises at layer 0, in every run."
    assert layers_sentence({"a": ()}) == ""


def test_parts_that_are_counted_beside_others_are_bounded():
    claims = layered("direct", [0], "counts") + layered("mediated", [0], "at most")
    parts = Finding("direct", 4, "at most", ("a", "b"), claims[0], claims)
    assert parts_sentence(parts) == (
        "Nothing is claimed: no direct or mediated effect is shown, each at most 0.60."
    )
    total = replace(parts, claims=(*claims, *layered("total", [0])))
    assert parts_sentence(total) == parts_sentence(parts)


# -- what holds for all lines -------------------------------------------------------------------


def several(*runs, **changed):
    """A report of several runs of patching, by label."""
    one = saying()
    summaries = {
        f"{n}": replace(one.summaries[POSITION], data=make(run, pairs=2))
        for n, run in enumerate(runs)
    }
    return replace(one, summaries=summaries, **changed)


def test_what_the_level_belongs_to():
    level = "at a level of 5 % for {}."
    assert level.format("the whole report") in once(several(run_of(), run_of("layer")))
    for other in (run_of(site="kv"), run_of(source="zero", control="none")):
        assert level.format("each site and source") in once(several(run_of(), other))
    models = "each model, site and source, and for what differs between models"
    assert level.format(models) in once(several(run_of(), run_of(), models=("A", "B")))


def test_a_control_in_any_run_is_spoken_of_and_noising_beside_denoising_too():
    alone = run_of(control="none")
    assert "and to the control's patch" in once(several(alone, run_of()))
    assert "since no control was run" in once(several(alone, alone))
    of_edges = make(run_of("knockout"), pairs=2)
    assert "since no control was run" in once(several(alone, knockout=of_edges))
    noising = run_of(direction="noising")
    said = once(several(run_of(), noising))
    assert said.endswith("; those of noising are falls of the probability of the clean answer.")
    assert once(several(noising, noising)).endswith(
        "Estimates are falls of the probability of the clean answer."
    )


def test_a_heading_is_of_a_run_or_of_what_runs_share():
    assert heading(saying()) == "Position patching of codi-tiny on word-problems"
    lens = make(replace(run_of(), experiment="lens"), pairs=2)
    assert (
        heading(replace(saying(), summaries={}, lens=lens)) == "Lens of codi-tiny on word-problems"
    )
    assert heading(replace(saying(), lens=lens)) == "codi-tiny on word-problems"
    assert heading(several(run_of(), run_of("layer"))) == "codi-tiny on word-problems"
    assert heading(several(run_of(), run_of(), models=("A", "B"))) == "A and B on word-problems"


def test_models_that_feed_nothing_back_are_named():
    pause = run_of(checkpoint={"feeds_back": False})
    made = several(run_of(), pause, pause)
    labels = ("A: position", "B: position", "C: position")
    summaries = dict(zip(labels, made.summaries.values(), strict=True))
    said = headline(replace(made, summaries=summaries, models=("A", "B", "C")))
    assert said == [
        "No difference between the models is shown.",
        "B and C feed nothing back: what they share with the others is no evidence of reasoning "
        "in thoughts.",
    ]
    two = dict(zip(("A: position", "A2: position"), made.summaries.values()))
    said = headline(replace(made, summaries=two, models=("A", "A2")))
    assert said[1].startswith("A2 feeds nothing back")
