import pytest
import torch
from torch import nn

from codi_patching.patching.hooks import PatchNotAppliedError, capture, patch


class TupleBlock(nn.Module):
    def forward(self, x):
        return x + 1, "weights"


class Block(nn.Module):
    def forward(self, x):
        return x + 1


def edit(rows, length, hidden, cell, value):
    mask = torch.zeros(rows, length, dtype=torch.bool)
    mask[cell] = True
    return mask, torch.full((rows, length, hidden), float(value))


def hooks_on(blocks):
    return sum(len(block._forward_hooks) for block in blocks)


def test_patch_overwrites_one_cell_of_one_row():
    block = Block()
    with patch([block], {0: edit(2, 3, 4, (1, 2), 7)}):
        out = block(torch.zeros(2, 3, 4))
    expected = torch.ones(2, 3, 4)
    expected[1, 2] = 7
    assert torch.equal(out, expected)


def test_patch_does_not_write_into_the_model_tensor():
    kept = torch.zeros(1, 2, 3)

    class Keeper(nn.Module):
        def forward(self, x):
            return kept

    block = Keeper()
    mask, values = edit(1, 2, 3, (0, 0), 7)
    with patch([block], {0: (mask, values)}):
        out = block(torch.zeros(1, 2, 3))
    assert torch.equal(kept, torch.zeros(1, 2, 3))
    assert out[0, 0, 0] == 7


def test_tuple_outputs_keep_their_other_items_and_every_row():
    block = TupleBlock()
    with patch([block], {0: edit(2, 1, 3, (0, 0), 5)}), capture([block]) as records:
        out, rest = block(torch.zeros(2, 1, 3))
    assert rest == "weights"
    assert out[:, 0, 0].tolist() == [5, 1]
    assert torch.equal(records[0][0], out)


def test_capture_sees_the_patched_state():
    block = Block()
    with patch([block], {0: edit(1, 1, 2, (0, 0), 9)}), capture([block]) as records:
        block(torch.zeros(1, 1, 2))
    assert records[0][0].tolist() == [[[9, 9]]]


def test_hooks_are_removed_after_success_and_after_an_exception():
    blocks = [Block(), Block()]
    with patch(blocks, {1: edit(1, 1, 2, (0, 0), 9)}), capture(blocks):
        for block in blocks:
            block(torch.zeros(1, 1, 2))
        assert hooks_on(blocks) == 3
    assert hooks_on(blocks) == 0

    def fail():
        with patch(blocks, {1: edit(1, 1, 2, (0, 0), 9)}), capture(blocks):
            raise KeyError("in the middle")

    with pytest.raises(KeyError):
        fail()
    assert hooks_on(blocks) == 0


@pytest.mark.parametrize("passes", [0, 2])
def test_a_patch_that_did_not_fire_exactly_once_raises(passes):
    block = Block()

    def run():
        with patch([block], {0: edit(1, 1, 2, (0, 0), 9)}):
            for _ in range(passes):
                block(torch.zeros(1, 1, 2))

    with pytest.raises(PatchNotAppliedError, match="exactly once"):
        run()
    assert hooks_on([block]) == 0


def test_a_pass_of_another_shape_raises():
    block = Block()
    with pytest.raises(ValueError, match=r"expected \(1, 1\).*has \(2, 1\)"):  # noqa: SIM117
        with patch([block], {0: edit(1, 1, 2, (0, 0), 9)}):
            block(torch.zeros(2, 1, 2))


def test_a_block_that_returns_something_else_raises():
    block = nn.Flatten()
    with pytest.raises(TypeError, match="rows, length, hidden"), capture([block]):
        block(torch.zeros(2, 3, 4))
