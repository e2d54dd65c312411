"""Checkpoints and sidecars of other kinds than ours: one line, no waiting, no crash."""

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from cld_core.checkpoint.load import load as load_checkpoint
from cld_core.checkpoint.load import newest_good
from cld_core.checkpoint.published import read as read_published
from cld_core.checkpoint.verify import Sidecar, newest_whole, slowest_save_s, verify
from cld_core.checkpoint.write import write
from cld_core.digests import checksum
from cld_core.errors import CheckpointError, NotFoundError
from cld_core.recipe.optim import OptimSpec
from tests.cld_core.checkpoint.conftest import fill

SOUND = {"format": 1, "step": 10, "bytes": 100, "sha256": "0" * 64, "seconds": 1.5}


def test_a_sound_sidecar(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(SOUND))
    assert Sidecar.read(tmp_path / "s.json") == Sidecar(**SOUND)


@pytest.mark.parametrize("name", list(SOUND))
@pytest.mark.parametrize(
    "value",
    ["1e400", "-1", "NaN", '"10"', "null", "true", "[1]", "{}", "1" + "0" * 400, "10.5", "Infinity", '"\\ud800"'],
)
def test_wrong_values_in_a_sidecar(run, name, value):
    if name == "seconds" and value in ("10.5", "true"):
        value = "[]"
    if name == "sha256" and value.startswith('"'):
        value = "7"
    fill(run, 10)
    sidecar = run.checkpoint_file(10).with_suffix(".json")
    sound = json.loads(sidecar.read_text())
    shown = ", ".join(f'"{key}": {value if key == name else json.dumps(own)}' for key, own in sound.items())
    sidecar.write_text("{" + shown + "}")
    assert Sidecar.read(sidecar) is None
    with pytest.raises(CheckpointError, match="its sidecar"):
        verify(run, 10)
    assert newest_whole(run)[0] is None
    assert slowest_save_s(run) is None


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 100_000, "{" * 100, '{"format": ', "\x00", '{"a": 1}'])
def test_sidecars_that_are_none(run, text):
    fill(run, 10)
    run.checkpoint_file(10).with_suffix(".json").write_text(text)
    with pytest.raises(CheckpointError, match="its sidecar"):
        verify(run, 10)


def test_strays_among_the_checkpoints(run):
    fill(run, 10)
    for name in ("step_00000010.bak.pt", "step_.pt", "step_²²²²²²²².pt", "step_-0000001.pt", f"step_{'9' * 200}.pt"):
        shutil.copy(run.checkpoint_file(10), run.checkpoints / name)
    assert newest_whole(run) == (10, [])


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_another_thing_in_the_place_of_a_checkpoint(run, kind):
    fill(run, 10, 20)
    path = run.checkpoint_file(20)
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
    size = path.stat().st_size
    sidecar = path.with_suffix(".json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "bytes": size}))
    step, damaged = newest_good(run, "abc")
    assert step == 10
    assert "not a regular file" in damaged[0].reason


def test_a_server_that_is_away_loses_no_steps(run, monkeypatch):
    def away(path):
        raise OSError(116, "Stale file handle")

    fill(run, 10, 20)
    monkeypatch.setattr("cld_core.checkpoint.verify.checksum", away)
    with pytest.raises(OSError, match="Stale file handle"):
        newest_whole(run)


def sealed(run, content: bytes) -> None:
    """A checkpoint of any content, with the sidecar that it should have."""
    path = run.checkpoint_file(10)
    path.write_bytes(content)
    Sidecar(format=1, step=10, bytes=len(content), sha256=checksum(path)).write(path.with_suffix(".json"))


class _Code:
    def __reduce__(self):
        return os.system, ("touch it-ran",)


def saved(value) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"text", pickle.dumps(_Code()), saved([1, 2]), saved(torch.ones(3)), saved("text"), saved(None)],
    ids=range(7),
)
def test_checkpoints_of_another_content(run, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sealed(run, content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(run, 10)
    assert "\n" not in str(caught.value)
    assert not Path("it-ran").exists()


def test_a_missing_checkpoint(run):
    with pytest.raises(NotFoundError):
        verify(run, 10)


NET = torch.nn.Linear(2, 3)


def published(**changes) -> dict:
    weights = {f"module.{name}": tensor for name, tensor in NET.state_dict().items()}
    parameters = list(NET.parameters())
    moments = {
        number: {"step": 3, "exp_avg": torch.zeros_like(one), "exp_avg_sq": torch.zeros_like(one)}
        for number, one in enumerate(parameters)
    }
    sound = {
        "model": weights,
        "optimizer": {"state": moments, "param_groups": [{"params": [0, 1]}]},
        "ema": {"shadow_params": [one.detach().clone() for one in parameters], "num_updates": 3},
        "step": 3,
    }
    return sound | changes


def read(tmp_path, content):
    torch.save(content, tmp_path / "p.pth")
    return read_published(tmp_path / "p.pth", NET, OptimSpec())


def test_the_published_example_is_otherwise_sound(tmp_path):
    assert read(tmp_path, published())[0] == 3


WEIGHT, BIAS = torch.zeros(3, 2), torch.zeros(3)


@pytest.mark.parametrize(
    "changes",
    [
        *({"step": value} for value in (float("inf"), float("nan"), -1, 10**400, None, "3", [3], True, torch.ones(2))),
        *({"ema": value} for value in (None, [], {"shadow_params": {}}, {"shadow_params": torch.zeros(2, 3)})),
        {"ema": {"shadow_params": [WEIGHT, BIAS], "num_updates": float("inf")}},
        {"ema": {"shadow_params": [WEIGHT, "text"], "num_updates": 1}},
        {"ema": {"shadow_params": [WEIGHT.to_sparse(), BIAS], "num_updates": 1}},
        {"ema": {"shadow_params": [WEIGHT.to(torch.complex64), BIAS], "num_updates": 1}},
        *({"model": value} for value in (None, [], {"module.weight": 3}, {3: WEIGHT})),
        {"model": {"weight": WEIGHT.to("meta"), "bias": BIAS}},
        {"model": {"weight": torch.zeros(1).expand(10**6, 10**6), "bias": BIAS}},
        {"model": {"weight": WEIGHT, "bias": BIAS, "more\n\x1b[31m": BIAS}},
        *({"optimizer": value} for value in (None, {}, {"state": [], "param_groups": [{"params": [[], {}]}]})),
        {"optimizer": {"state": {0: {"step": torch.zeros(1).expand(10**9)}}, "param_groups": [{"params": [0, 1]}]}},
        {"optimizer": {"state": {0: {"step": "x"}}, "param_groups": [{"params": [0, 1]}]}},
    ],
    ids=range(29),
)
def test_published_files_of_another_content(tmp_path, changes):
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, published(**changes))
    assert str(caught.value).startswith(str(tmp_path / "p.pth"))
    assert str(caught.value).isprintable()


def test_a_storage_that_claims_terabytes(tmp_path):
    """The pickle says how many numbers there are, the archive has sixteen bytes of them."""
    torch.save(published(step=torch.arange(4, dtype=torch.int32)), tmp_path / "p.pth")
    with zipfile.ZipFile(tmp_path / "p.pth") as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    (name,) = (name for name in members if name.endswith("data.pkl"))
    assert b"K\x04" in members[name]
    members[name] = members[name].replace(b"K\x04", b"\x8a\x06" + (2**44).to_bytes(6, "little"))
    with zipfile.ZipFile(tmp_path / "q.pth", "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    with pytest.raises(CheckpointError):
        read_published(tmp_path / "q.pth", NET, OptimSpec())


def test_a_state_of_another_content_is_not_a_model(run):
    write(run, 10, {"model": {"w": torch.ones(3)}, "ema": None, "model_digest": run.recipe().model_digest()})
    from cld_core.model import Model

    with pytest.raises(CheckpointError, match=r"step_00000010\.pt: does not fit the recipe"):
        Model.from_run(run.path)


def rewritten(path: Path, change, method=zipfile.ZIP_STORED) -> Path:
    """A file of torch.save whose pickle is changed, or which is compressed."""
    with zipfile.ZipFile(path) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for member, content in members.items():
            archive.writestr(member, change(content) if member.endswith("data.pkl") else content)
    return path


# A dictionary whose key is a tuple of two tuples of two tuples ...: its hash would take 2^60 steps.
PAIRS = b")q\x00" + b"".join(b"h%bh%b\x86q%b" % (bytes([i]), bytes([i]), bytes([i + 1])) for i in range(60))
NESTED = b"\x80\x02" + PAIRS + b"}h\x3cNs."


@pytest.mark.timeout(20)
def test_a_key_that_takes_years(tmp_path, run):
    torch.save(published(), tmp_path / "p.pth")
    with pytest.raises(CheckpointError, match="tuples in tuples without end"):
        read_published(rewritten(tmp_path / "p.pth", lambda _: NESTED), NET, OptimSpec())
    sealed(run, (tmp_path / "p.pth").read_bytes())
    with pytest.raises(CheckpointError, match="tuples in tuples without end"):
        load_checkpoint(run, 10)
    # The form of torch before 1.6: pickles, one after another.
    (tmp_path / "q.pth").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + NESTED)
    with pytest.raises(CheckpointError, match="tuples in tuples without end"):
        read_published(tmp_path / "q.pth", NET, OptimSpec())


@pytest.mark.timeout(20)
def test_a_pickle_under_another_name(tmp_path):
    """torch finds it in any case of letters, and does not look at the name in front of the content."""
    torch.save(published(), tmp_path / "p.pth")
    file = rewritten(tmp_path / "p.pth", lambda _: NESTED)
    sound = file.read_bytes()
    file.write_bytes(sound.replace(b"/data.pkl", b"/DATA.PKL"))
    with pytest.raises(CheckpointError, match="tuples in tuples without end"):
        read_published(file, NET, OptimSpec())
    file.write_bytes(sound.replace(b"/data.pkl", b"/datx.pkl", 1))
    with pytest.raises(CheckpointError, match="its pickle cannot be read: File name in directory"):
        read_published(file, NET, OptimSpec())


def test_a_compressed_archive(tmp_path):
    """torch would unpack terabytes."""
    torch.save(published(), tmp_path / "p.pth")
    with pytest.raises(CheckpointError, match="it is compressed"):
        read_published(rewritten(tmp_path / "p.pth", bytes, zipfile.ZIP_DEFLATED), NET, OptimSpec())


def test_the_form_of_torch_before_1_6(tmp_path):
    torch.save(published(), tmp_path / "p.pth", _use_new_zipfile_serialization=False)
    assert read_published(tmp_path / "p.pth", NET, OptimSpec())[0] == 3
