"""What a model reads alike is one question: of siblings, and of pairs that are one group."""

import json
import warnings

import pytest
from conftest import QUESTIONS

from codi_patching.analysis.report import build_report
from codi_patching.experiments.lens import LensExperiment
from codi_patching.experiments.position import PositionPatching

FIRST = QUESTIONS[0][0]
SPACED = FIRST.replace("pears.", "pears .")
"""The same tokens, other words."""


@pytest.fixture
def pairs(tmp_path):
    """Writes pairs of the first questions, each changed by its own text; gives the file."""

    def write(*changes, copies=1):
        records = []
        for index, change in enumerate(changes * copies):
            clean, a, corrupted, b = QUESTIONS[index % len(changes)]
            records.append(
                {
                    "pair_id": f"p{index}",
                    "clean": {"question": clean, "answer": a},
                    "corrupted": {"question": corrupted, "answer": b},
                    **change,
                }
            )
        (tmp_path / "own.json").write_text(json.dumps(records))
        return str(tmp_path / "own.json")

    return write


def test_a_sibling_that_the_model_reads_as_the_clean_question_is_no_control(
    predict, checkpoint, pairs
):
    file = pairs({"sibling": {"question": SPACED, "answer": 9}}, {}, {})
    with pytest.warns(UserWarning, match=r"1 siblings left out.*p0 \(it is the clean question\)"):
        found = predict(PositionPatching(checkpoint=checkpoint), pairs=file)
    assert [pair.control.kind for pair in found.pairs] == ["random_pair"] * 3


@pytest.mark.parametrize("kind", [PositionPatching, LensExperiment])
def test_pairs_that_the_model_reads_alike_are_one_group(predict, checkpoint, pairs, kind):
    def side(text, has):
        text = text.replace("16", str(has))
        return {"question": text, "answer": has - 3, "reasoning_steps": [f"<<{has}-3={has - 3}>>"]}

    first, second = (
        {"clean": side(text, 16), "corrupted": side(text, 18)} for text in (FIRST, SPACED)
    )
    file = pairs(first, second, {})
    with pytest.warns(UserWarning, match="2 pairs share their questions") as said:
        found = predict(kind(checkpoint=checkpoint), pairs=file)
    assert len([each for each in said if "share" in str(each.message)]) == 1
    assert [pair.group for pair in found.pairs[:2]] == ["p0", "p0"]


def test_a_second_run_of_an_experiment_reads_its_own_pairs(predict, checkpoint, pairs):
    experiment = PositionPatching(checkpoint=checkpoint)
    predict(experiment)
    file = pairs({"sibling": {"question": SPACED, "answer": 9}}, {}, {})
    with pytest.warns(UserWarning, match="1 siblings left out"):
        found = predict(experiment, pairs=file)
    assert found.pairs[0].control.kind == "random_pair"


def test_three_pairs_19_times_are_three_groups_without_a_verdict(predict, checkpoint, pairs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        experiment = PositionPatching(checkpoint=checkpoint, self_patch_pairs=0, verify_pairs=0)
        found = predict(experiment, pairs=pairs({}, {}, {}, copies=19))
    assert len(found.pairs) == 57
    assert len({pair.group for pair in found.pairs}) == 3
    findings = build_report([found.data]).findings
    assert {f.answer for f in findings if f.claims} <= {"counts", "described"}
    assert not {f.answer for f in findings} & {"yes", "no"}
