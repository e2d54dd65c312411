"""What a run was made with."""

import cld_core
from cld_core.run import identity as identities
from cld_core.run.identity import identity, new_name


def test_what_identifies_a_run(tmp_path):
    made = identity("toy", tmp_path / "toy.yaml")
    assert set(made) == {"created", "recipe", "recipe_file", "versions", "git", "user", "host"}
    assert (made["recipe"], made["recipe_file"]) == ("toy", str(tmp_path / "toy.yaml"))
    assert made["versions"]["cldctl"] == cld_core.__version__
    assert {"python", "torch", "numpy", "submitit"} <= set(made["versions"])


def test_code_outside_a_checkout_has_no_commit(tmp_path):
    assert identities._git(tmp_path) is None


def test_a_user_without_a_name(monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert identity("toy", None)["user"] == "4711"


def test_names_do_not_repeat():
    assert len({new_name("toy") for _ in range(100)}) == 100
    assert all(name.startswith("toy-") for name in (new_name("toy"),))
