from dataclasses import replace

from findings_maker import FINDINGS, MISSING, OPEN, WHERE, MadeClaim
from results_maker import run_of

from codi_patching.reporting.evidence import (
    answer,
    beside,
    evidence,
    finding_row,
    passing_cells,
    verdict_word,
)


def test_evidence_in_words():
    assert evidence(WHERE) == (
        "0.38 probability [0.30, 0.45], p = 0.0002, n = 24 pairs, threshold 0.10"
    )
    assert evidence(MISSING) == ""
    assert evidence(replace(OPEN, low=None, high=None, p=None)) == (
        "0.05 probability, n = 24 pairs, threshold 0.10"
    )
    assert beside(OPEN) == evidence(OPEN)
    assert beside(replace(OPEN, sentence="Undecided (p = 0.2, n = 24 pairs).")) == ""


def test_a_verdict_is_said_once():
    assert answer(WHERE) == WHERE.sentence
    assert answer(replace(WHERE, sentence="Layer 2 does.")) == "*Yes.* Layer 2 does."
    assert answer(MISSING) == "No layer patching was run."


def test_numbers_that_no_test_judges_are_described():
    assert verdict_word(WHERE) == "yes"
    assert verdict_word(MISSING) == "not applicable"
    assert verdict_word(replace(WHERE, verdict="not applicable")) == "described"


def test_a_finding_as_a_row():
    row = finding_row(WHERE)
    assert (row["verdict"], row["estimate"], row["sentence"]) == ("yes", 0.38, WHERE.sentence)


def test_cells_that_pass():
    run = run_of()
    assert passing_cells(run, FINDINGS) == [(2, 1)]  # one is not judged, one has a negative effect
    assert passing_cells(run, [OPEN]) is None
    assert passing_cells(run, [replace(WHERE, claims=WHERE.claims[1:2])]) == []


def test_cells_of_another_arm_do_not_pass():
    run = run_of()
    relay = replace(WHERE, arms=("relay",))
    assert passing_cells(run, [relay], "position") is None
    assert passing_cells(run, [relay], "relay") == [(2, 1)]
    assert passing_cells(run, [replace(WHERE, arms=("relay", "position"))]) is None


def test_a_whole_layer_needs_no_column():
    run = run_of("layer")
    whole = MadeClaim("layer 1", "yes", 0.4, layer="1")
    assert passing_cells(run, [replace(WHERE, claims=(whole,))]) == [(1, 0)]
    contrast = replace(whole, kind="direct minus total")
    assert passing_cells(run, [replace(WHERE, claims=(contrast,))]) is None
