"""Progress of commands: a line now and then where stderr is no terminal."""

import io

from codi_patching.callbacks.counting import Counting, counted


def test_lines_come_now_and_then(capsys, monkeypatch):
    seconds = iter([0.0, 5.0, 25.0, 25.0, 30.0])
    monkeypatch.setattr("codi_patching.callbacks.counting.time.monotonic", lambda: next(seconds))
    with Counting(4_000, "questions", every=20.0) as count:
        for done in (1_000, 2_000, 3_000):
            count.reach(done)
    assert capsys.readouterr().err == "questions: 2,000 of 4,000\n"


def test_a_line_says_what_was_done_last_and_the_next_one_waits_again(capsys, monkeypatch):
    seconds = iter([100.0, 130.0, 130.0, 140.0, 151.0, 151.0])
    monkeypatch.setattr("codi_patching.callbacks.counting.time.monotonic", lambda: next(seconds))
    count = Counting(3, "runs")  # 20 seconds if nothing else is said
    for done in (1, 2, 3):
        count.reach(done, f"pair {done}")
    assert capsys.readouterr().err == "runs: 1 of 3; pair 1\nruns: 3 of 3; pair 3\n"
    assert count.done == 3


def test_items_are_counted_as_they_are_taken(monkeypatch):
    reached = []
    monkeypatch.setattr(Counting, "reach", lambda count, done: reached.append((done, count.total)))
    items = counted("abc", "questions")
    assert (next(items), reached) == ("a", [])
    assert list(items) == ["b", "c"]
    assert reached == [(1, 3), (2, 3), (3, 3)]


def test_a_short_count_says_nothing(capsys):
    assert list(counted([3, 4, 5], "questions")) == [3, 4, 5]
    out, err = capsys.readouterr()
    assert out + err == ""


def test_a_terminal_has_a_bar_that_ends_where_the_count_does(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", screen)
    with Counting(7, "questions") as count:
        count.reach(3, "the third")
        count.reach(7)
        assert count.done == 7
    last = screen.getvalue().rpartition("\r")[2]
    assert "questions: 100%" in last
    assert "7/7" in last
