"""Processes of one run that watch each other: how one that is lost ends the others."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from codi_patching.callbacks import processes
from codi_patching.callbacks.processes import Processes, lost_process, processes_of

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


@pytest.fixture
def clock(monkeypatch):
    """The time, which stands still until it is set."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_process_that_ended_with_an_error_has_time_to_say_it(tmp_path, clock):
    status = [None, None, 0]
    children = [SimpleNamespace(poll=lambda at=at: status[at]) for at in range(3)]
    watch = Processes(tmp_path, 1, 5, children)
    assert watch._dead_child() == ""
    status[1] = 7
    assert watch._dead_child() == ""
    clock.now += 10.0
    assert watch._dead_child() == ""
    clock.now += 0.1
    assert watch._dead_child() == "process 3 ended with exit status 7"
    status[0] = -15
    assert watch._dead_child() == "process 2 was ended by signal 15"


@pytest.mark.parametrize(("rank", "silent"), [(0, 5.0), (1, 15.0)])
def test_a_process_stands_still_after_its_time_and_the_first_says_so_first(
    tmp_path, clock, rank, silent
):
    watch = Processes(tmp_path, rank, 2, silent=5.0)
    other = tmp_path / f".process_{1 - rank}"

    def counted(count):
        other.write_text(count)
        return watch._silent_other()

    assert watch._silent_other() == ""
    assert counted("1") == ""
    clock.now += 100.0  # it has not counted on yet: perhaps nobody's
    assert watch._silent_other() == ""
    assert counted("2") == ""
    clock.now += silent
    assert watch._silent_other() == ""
    clock.now += 0.1
    assert watch._silent_other() == (
        f"process {1 - rank} stands still, it did not answer for {silent:.0f} s"
    )
    for count in ("9", "10", "1"):  # any other count, of one that begins anew too
        clock.now += silent + 0.1
        assert counted(count) == ""
    other.unlink()
    clock.now += 100.0  # it is done
    assert watch._silent_other() == ""
    assert watch._silent_other() == ""


def test_a_process_alone_watches_nobody_and_writes_nothing(tmp_path):
    alone = Processes(tmp_path, 0, 1)
    alone.start()
    alone.stop()
    assert not list(tmp_path.iterdir())
    assert alone._thread.ident is None


def test_a_count_is_shown_while_a_process_goes_on_and_taken_away_at_its_end(tmp_path):
    shown = threading.Event()
    two = Two(tmp_path)
    first = two.ranks[0]
    first._silent_other = lambda: shown.set() or ""
    first.start()
    assert shown.wait(20)
    assert int((tmp_path / ".process_0").read_text()) >= 1
    first.stop()
    first.stop()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rank", "who"), [(0, "codi-patching"), (2, "codi-patching (process 2)")])
def test_a_process_that_lost_another_ends_at_once_with_its_children(
    tmp_path, monkeypatch, capsys, rank, who
):
    ended = []
    monkeypatch.setattr(processes.os, "_exit", ended.append)
    child = SimpleNamespace(kill=lambda: ended.append("child"))
    Processes(tmp_path, rank, 3, [child])._leave("process 1 stands still")
    assert ended == ["child", 1]
    assert capsys.readouterr().err == (
        f"\n{who}: process 1 stands still; what is done already is kept: run the same command "
        "again\n"
    )


def test_processes_of_a_trainer_are_watched_by_us_alone(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    done = threading.Event()
    observer = threading.Thread(target=done.wait, name="child-process-observer")
    observer._child_processes = [child]
    observer.start()
    launcher = SimpleNamespace(procs=[child, "no process"])
    strategy = SimpleNamespace(launcher=launcher)
    watch = processes_of(
        SimpleNamespace(strategy=strategy, global_rank=1, world_size=3), tmp_path / "out"
    )
    done.set()
    assert (watch.folder, watch.rank, watch.children) == (tmp_path / "out", 1, (child,))
    assert watch._others == [0, 2]
    assert observer._child_processes == []
    child.wait()
    alone = SimpleNamespace(launcher=None)
    watch = processes_of(SimpleNamespace(strategy=alone, global_rank=0, world_size=1), tmp_path)
    assert (watch.children, watch._others) == ((), [])


def test_an_error_that_only_passed_through_the_library_is_its_own(monkeypatch):
    calls = {"__name__": "torch.distributed.something"}
    exec("def call(action): action()", calls)

    def fail():
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError) as caught:
        calls["call"](fail)
    assert lost_process(caught.value) is None
    assert lost_process(RuntimeError("raised nowhere")) is None
    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(2, 2)(torch.ones(3))
    assert caught.traceback[-1].frame.f_globals["__name__"] == "torch.nn.modules.linear"
    assert lost_process(caught.value) is None
