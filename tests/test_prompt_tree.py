"""Prompts packed with what they have in common once, by hand."""

import torch

from codi_patching.patching.sweep.prompt_tree import PromptTree

CPU = torch.device("cpu")


def test_common_beginnings_are_there_once():
    tree = PromptTree([[7, 8, 9, 5], [7, 8, 4, 6]], CPU)
    assert tree.tokens.tolist() == [7, 8, 9, 5, 4, 6]
    assert tree.depths.tolist() == [0, 1, 2, 3, 2, 3]
    assert tree.paths.tolist() == [[0, 1, 2, 3], [0, 1, 4, 5]]
    assert tree.lengths.tolist() == [4, 4]
    assert tree.ends.tolist() == [3, 5]
    (group,) = tree.groups
    assert group.prompts.tolist() == [0, 1]
    assert group.own[:, :2].tolist() == [[0, 1], [4, 5]]
    assert tree.places.tolist() == [0, 1, 2, 3, 4, 5]
    seen = [[row.tolist().count(True) for row in rows] for rows in group.masks]
    assert seen[0] == [1, 2, 3, 4]
    assert seen[1][:2] == [3, 4]


def test_equal_prompts_and_prompts_that_go_on_have_no_token_twice():
    tree = PromptTree([[7, 8], [7, 8], [7, 8, 9], [7]], CPU)
    assert tree.tokens.tolist() == [7, 8, 9]
    assert tree.paths.tolist() == [[0, 1, 0], [0, 1, 0], [0, 1, 2], [0, 0, 0]]
    assert tree.lengths.tolist() == [2, 2, 3, 1]
    assert tree.ends.tolist() == [1, 1, 2, 0]
    attending = torch.cat([group.own.flatten() for group in tree.groups])
    assert attending[tree.places].tolist() == [0, 1, 2]


def test_a_long_prompt_attends_alone():
    """Padded, one of 1,500 tokens would make eight short ones as wide."""
    prompts = [list(range(1500)), *([2000 + row, *range(99)] for row in range(8))]
    tree = PromptTree(prompts, CPU)
    assert [group.prompts.tolist() for group in tree.groups] == [[0], list(range(1, 9))]
    padded = sum(group.masks.numel() for group in tree.groups)
    assert padded == 1500**2 + 8 * 100**2
    attending = torch.cat([group.own.flatten() for group in tree.groups])
    assert attending[tree.places].tolist() == list(range(len(tree.tokens)))
