"""Processes of one run that watch each other: how one that is lost ends the others."""

import subprocess
import sys
import threading

import pytest
import torch.distributed as dist

from codi_patching.callbacks.processes import Processes, lost_process

BEAT = 0.02


class Two:
    """Two ranks in one process, and what they were told."""

    def __init__(self, folder, silent=0.5, children=()):
        self.told, self.ended = [], threading.Event()
        self.ranks = [
            Processes(folder, rank, 2, children if rank == 0 else (), self.end, BEAT, silent)
            for rank in (0, 1)
        ]

    def end(self, lost):
        self.told.append(lost)
        self.ended.set()


@pytest.fixture
def two(tmp_path):
    two = Two(tmp_path)
    for rank in two.ranks:
        rank.start()
    yield two
    for rank in two.ranks:
        rank.stop()
    assert not list(tmp_path.iterdir())


def test_processes_that_go_on_end_nothing(two):
    assert not two.ended.wait(1.5)  # three times what is silence


def test_a_process_that_stands_still_ends_the_others_in_a_line(two, monkeypatch):
    assert not two.ended.wait(10 * BEAT)
    monkeypatch.setattr(two.ranks[1], "_file", lambda rank: two.ranks[1].folder / "elsewhere")
    assert two.ended.wait(20)
    assert two.told == ["process 1 stands still, it did not answer for 0 s"]
    two.ranks[1].stop()
    (two.ranks[0].folder / ".process_1").unlink()


def test_a_count_that_was_left_behind_is_nobodys(tmp_path):
    (tmp_path / ".process_1").write_text("7")
    two = Two(tmp_path, silent=0.1)
    two.ranks[0].start()
    assert not two.ended.wait(0.5)
    two.ranks[0].stop()


def test_a_process_that_was_killed_is_named_with_its_signal(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    two = Two(tmp_path, children=[child])
    two.ranks[0].start()
    assert not two.ended.wait(5 * BEAT)
    child.kill()
    assert two.ended.wait(20)
    assert two.told == ["process 1 was ended by signal 9"]
    child.communicate()


def test_a_link_in_the_place_of_a_count_is_not_followed(tmp_path):
    folder, outside = tmp_path / "out", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("precious")
    (folder / ".process_0").symlink_to(outside)
    two = Two(folder)
    two.ranks[0].start()
    two.ranks[0].stop()
    assert outside.read_text() == "precious"


def test_errors_of_the_library_are_ours_where_a_process_is_gone():
    with pytest.raises((RuntimeError, ValueError)) as caught:
        dist.barrier()  # of processes that there are not
    assert str(lost_process(caught.value)) == (
        "another process of this run ended or does not answer; what is done already is kept: run "
        "the same command again"
    )
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("of something else")
    assert lost_process(caught.value) is None
