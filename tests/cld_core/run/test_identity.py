"""What a run was made with."""

from unittest.mock import Mock

from cld_core.run import identity as identities
from cld_core.run.identity import identity, new_name


def test_code_outside_a_checkout_has_no_commit(tmp_path):
    assert identities.commit_of(tmp_path) is None


def test_a_user_without_a_name(monkeypatch):
    monkeypatch.setattr("getpass.getuser", Mock(side_effect=KeyError("getpwuid(): uid not found: 4711")))
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert identity("toy", None)["user"] == "4711"


def test_runs_of_the_same_second_have_different_names(monkeypatch):
    suffixes = iter(("00ff", "a1b2"))
    monkeypatch.setattr("secrets.token_hex", lambda size: next(suffixes) if size == 2 else "")
    monkeypatch.setattr("time.strftime", lambda form: {"%m%d-%H%M%S": "0103-040506"}[form])
    assert [new_name("toy") for _ in range(2)] == ["toy-0103-040506-00ff", "toy-0103-040506-a1b2"]
