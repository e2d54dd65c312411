"""Which files of a checkout become a run's code, and which do not: secrets, data, what git ignores, what is large."""

import os
import subprocess

import pytest

from cld_core.errors import UsageError
from cldctl.runs import checkout


def git(root, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "init.defaultBranch=main")
    return subprocess.run(["git", "-C", root, *who, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repository"
    write(root, {"cld_core/__init__.py": "", "cld_core/a.py": "A = 1\n", "tests/test_a.py": "", "run.sh": "ls\n"})
    write(root, {".gitignore": "ignored*\n", ".env": "PASSWORD=x\n", "weights.pt": "data", "gone.py": ""})
    (root / "run.sh").chmod(0o755)
    git(root, "init")
    git(root, "add", "-A")
    git(root, "commit", "-m", "first")
    return root


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def copied(root, tmp_path, runs=None):
    target = tmp_path / "code"
    target.mkdir()
    return target, checkout.copy(target, runs or tmp_path / "runs", root)


def test_tracked_files_as_they_are_now_and_new_ones(repository, tmp_path):
    write(
        repository,
        {"cld_core/a.py": "A = 2\n", "cld_core/new.py": "NEW = 1\n", "ignored.py": "", "Größe.py": "g = 1\n"},
    )
    (repository / "gone.py").unlink()
    target, it = copied(repository, tmp_path)
    assert set(it.files) == {
        ".gitignore",
        "cld_core/__init__.py",
        "cld_core/a.py",
        "cld_core/new.py",
        "run.sh",
        "Größe.py",
    }
    assert (target / "cld_core/a.py").read_text() == "A = 2\n"
    assert os.access(target / "run.sh", os.X_OK)
    assert not os.access(target / "cld_core/a.py", os.X_OK)
    assert it.left_out == {
        ".env": "it may hold a secret",
        "weights.pt": "it is data",
        "gone.py": "it was deleted",
        "tests/": "no job needs it",
    }


def test_the_difference_from_the_commit_has_no_secrets(repository, tmp_path):
    write(repository, {"cld_core/a.py": "A = 2\n", ".env": "PASSWORD=secret\n", "tests/test_a.py": "T = 1\n"})
    _, it = copied(repository, tmp_path)
    patch = checkout.patch(it.left_out, repository)
    assert "+A = 2" in patch
    assert "+T = 1" in patch
    assert "secret" not in patch
    git(repository, "checkout", "cld_core", "tests")
    assert checkout.patch(it.left_out, repository) == ""


def test_what_is_no_file_of_the_checkout(repository, tmp_path):
    """Links, runs in the checkout that git does not ignore, private keys under any name, large files."""
    (tmp_path / "elsewhere.py").write_text("")
    (repository / "link.py").symlink_to(tmp_path / "elsewhere.py")
    key = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n"
    write(repository, {"mine/run.json": "{}", "mine/code/cld_core/a.py": "", "runs/b/x.py": "", "deploy.txt": key})
    (repository / "large.csv").write_bytes(bytes(checkout.MAX_FILE_BYTES + 1))
    _, it = copied(repository, tmp_path, runs=repository / "runs")
    assert not {"link.py", "deploy.txt", "large.csv", "mine/run.json"} & set(it.files)
    assert not any(name.startswith(("mine/", "runs/")) for name in it.files)
    assert it.left_out["deploy.txt"] == "it holds a private key"
    assert it.left_out["large.csv"] == "larger than 1 MiB"
    assert "link" in it.left_out["link.py"]
    assert it.left_out["mine/"] == it.left_out["runs/"] == "it belongs to a run"


def test_more_than_fits_is_refused(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(checkout, "MAX_FILES", 20)
    write(repository, {f"images/{number}.txt": "x" * 100 for number in range(40)})
    with pytest.raises(UsageError, match=r"20 files.*most is in images.*\.gitignore.*--live-code"):
        copied(repository, tmp_path)


@pytest.mark.parametrize(
    ("name", "is_left_out"),
    [
        *((name, True) for name in (".env", "a/.env.local", "server.pem", "id_rsa", "id_ed25519.pub", ".netrc")),
        *((name, True) for name in ("credentials.json", "token", "hf_token.txt", ".aws/config")),
        *((name, True) for name in ("secrets.py", "x/secrets.yaml", "a.npz", "b.PNG", "c.tar.gz", "d.safetensors")),
        *((name, False) for name in ("tokenizer.py", "tokens.py", "token_mixing.py", "environment.py", "keys.py")),
        *((name, False) for name in ("environment.yml", "tokenizer.json", "recipes/a.yaml", "src/a.cu", "LICENSE")),
    ],
)
def test_names(name, is_left_out):
    assert (checkout.why_left_out(name) is not None) is is_left_out
