"""What is said, word by word: from claims whose numbers a test writes down."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from made_reports import claim, comparison, finding, report, strata_of
from results_maker import run_of

from codi_patching.analysis.findings import CLAIMED, Claim, Course, Finding, StrataFinding
from codi_patching.analysis.used import BOTH, DIFFERS, NEEDED
from codi_patching.reporting.claims_in_words import (
    carried_title,
    claim_details,
    claim_words,
    courses_named,
    places,
)
from codi_patching.reporting.console import console_text
from codi_patching.reporting.rows import as_row, more_rows, once, table_rows
from codi_patching.reporting.sentences import headline

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
    row = as_row(finding("early_or_late_layers", None, "described", lead), report())
    assert row.answer == words


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


def test_a_step_can_be_read_and_not_used():
    read = [claim("3", "0", kind="read", step=1), claim("3", "1", kind="read", step=2)]
    read += [claim("3", "2", "less often", kind="read", step=3)]  # which chance reads more often
    acting = [claim("3", "1", kind=DIFFERS, step=2), claim("3", "0", "no", kind=DIFFERS, step=1)]
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
