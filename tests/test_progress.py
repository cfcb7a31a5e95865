import json

import pytest

from nbgenomics import progress


def test_short_work_is_silent_and_long_work_says_what_is_left(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress("short", 10) as work:
        now[0] += 1.9
        work.update(5)
    assert capsys.readouterr().err == ""
    with progress.Progress("long", 10) as work:
        now[0] += 30
        work.update(2.5, note="half of a half")
        assert work.line() == "long:  25% in 30 s, 1 min 30 s left; half of a half"
    assert capsys.readouterr().err == "long: 100% in 30 s; half of a half\n"


def test_work_that_fails_does_not_end_at_all_of_it(capsys):
    with pytest.raises(RuntimeError), progress.Progress("failing", 4, after=-1) as work:
        work.start -= 10
        work.shown -= 10
        work.update(1)
        raise RuntimeError
    assert "failing:  25%" in capsys.readouterr().err


def test_track_yields_everything_and_the_log_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv(progress.LOG_VARIABLE, str(tmp_path / "log"))
    assert list(progress.track(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    progress.log("one")
    progress.log("two")
    assert [json.loads(line)["text"] for line in (tmp_path / "log").read_text().splitlines()] == ["one", "two"]
