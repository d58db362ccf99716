from findings_maker import FINDINGS
from results_maker import make, run_of, written

from codi_patching.analysis.validity import check_run
from codi_patching.reporting.console import summary_text


def text_of(results, **options):
    return summary_text(results, check_run(results), **options)


def test_what_is_printed(tmp_path):
    results = written(
        tmp_path / "out",
        run_of(),
        {"pair_99": "its answers differ before their numbers"},
        planted={(2, 1): 0.4},
        disrupting={(1, 0): 5.0},
        one_pair={"unknown_words": ("foxes",)},
    )
    said = text_of(results, findings=FINDINGS, folder=tmp_path)
    lines = said.splitlines()
    assert lines[0] == (
        "position patching of codi-tiny on word-problems: 24 pairs, recomputed latents, denoising"
    )
    assert lines[1] == (
        "answered right without patches: 24 of 24 source questions, 24 of 24 base questions"
    )
    content = next(line for line in lines if line.startswith("   1  layer 2, position 1"))
    assert content.endswith("beyond the threshold")
    disruption = [line for line in lines if line.startswith("   1  layer 1, position 0")]
    assert len(disruption) == 1
    assert "flip rate (of tokens)" in said
    assert "answer changed" not in said
    assert "Do layers rely on different positions? UNDECIDED\n    Undecided.\n    0.05 " in said
    assert "validity: 5 of 5 checks that apply hold; 2 do not apply; 3 are described" in said
    assert "excluded: 1 pair\n  pair_99: its answers differ before their numbers" in said
    assert "words that the tokenizer does not know: foxes (pair_00)" in said
    assert lines[-1] == f"written to {tmp_path}"


def test_a_run_without_effects_or_control():
    results = make(run_of("layer", control="none"))
    results.values["kl_divergence"][...] = 1e-13
    said = text_of(results)
    assert (
        "over the unpatched run alone: no control was run\n  no cell has one of 0.001 or more"
        in said
    )
    assert "no cell has any beyond rounding" in said
    assert "excluded: none" in said


def test_what_fails_is_loud():
    results = make(run_of(), one_pair={"self_patch": 0.5})
    said = text_of(results)
    assert (
        "FAILS: self-patch identity: expected KL at most 1e-06 nats in every cell; seen: " in said
    )


def test_a_model_that_does_not_answer():
    results = make(run_of())
    for pair in results.pairs:
        pair.source["predicts_clean"] = 0.0
    assert "WARNING: the model answers fewer than half of the source questions" in text_of(results)
