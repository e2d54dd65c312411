"""Checks of this machine."""

from cldctl import machine


def test_a_runs_folder_that_cannot_hold_runs(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    check = machine._runs_folder(tmp_path)
    assert check.verdict == "fail"
    assert "hard links" in check.found
    assert not list(tmp_path.iterdir())
