"""Progress of commands: a line now and then where stderr is no terminal."""

from codi_patching.callbacks.counting import Counting, counted


def test_lines_come_now_and_then(capsys, monkeypatch):
    seconds = iter([0.0, 5.0, 25.0, 25.0, 30.0])
    monkeypatch.setattr("codi_patching.callbacks.counting.time.monotonic", lambda: next(seconds))
    with Counting(4_000, "questions", every=20.0) as count:
        for done in (1_000, 2_000, 3_000):
            count.reach(done)
    assert capsys.readouterr().err == "questions: 2,000 of 4,000\n"


def test_a_short_count_says_nothing(capsys):
    assert list(counted([3, 4, 5], "questions")) == [3, 4, 5]
    out, err = capsys.readouterr()
    assert out + err == ""
