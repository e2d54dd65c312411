"""Which file the output of a process is in."""

import os
import shutil
from pathlib import Path

import pytest

from cld_core.errors import NotFoundError
from cld_core.files import write_json
from cld_core.run import RunFolder
from cld_core.run.events import Failed
from cldctl.runs import logs
from cldctl.runs.logs import LogRange, cut, merged
from tests.support.made_up import ended, note, queued, run_with, started
from tests.support.scripted import trained
from tests.support.tools import invoke


@pytest.fixture
def run(tmp_path, scripted):
    return run_with(tmp_path / "mine", 10)


def write(folder, job_id, text="hello\n"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{job_id}_0_log.out").write_text(text)


def test_the_log_of_an_attempt_is_that_of_its_job(run):
    with pytest.raises(NotFoundError, match="was never submitted"):
        logs.of_training(run, None, 0)
    for attempt, job_id in enumerate("78"):
        note(run, queued(job_id, logs="/elsewhere"), started(attempt, job_id=job_id))
        write(run.logs, job_id)
    (file,) = logs.of_training(run, 0, 0).files()
    assert file == run.logs / "7_0_log.out"
    assert logs.of_training(run, None, 0).job.job_id == "8"
    with pytest.raises(NotFoundError, match=r"no attempt 2\. It has: 0, 1"):
        logs.of_training(run, 2, 0)


def test_the_output_of_an_attempt_that_another_launcher_started_is_there(run):
    note(run, started(job_id="torchrun"))
    for attempt in (None, 0):
        with pytest.raises(NotFoundError, match=r"another launcher started it.*same command again"):
            logs.of_training(run, attempt, 0)
    note(run, queued(logs=run.logs))
    assert logs.of_training(run, None, 0).note is None
    write(run.logs, "torchrun")
    assert logs.of_training(run, 0, 0).files(), "the line of its submission was lost"


def test_logs_of_a_folder_that_was_moved_are_found_and_those_of_other_users_of_earlier_versions(
    run, tmp_path
):
    """Wherever the ledger says that they are, they are looked for in this run."""
    note(run, queued(logs=run.path / "logs-anna"))
    write(run.path / "logs-anna", "7")
    moved = tmp_path / "moved"
    shutil.move(run.path, moved)
    (file,) = logs.of_training(RunFolder(moved), None, 0).files()
    assert file == moved / "logs-anna" / "7_0_log.out"
    note(RunFolder(moved), queued("9", logs="/etc"))
    assert Path(logs.of_training(RunFolder(moved), None, 0).job.logs).parent == moved


def mark(restart, rank=0):
    return f"--- start {restart} of job 7: rank {rank} on n1, 2026-11-26T08:00:0{restart} ---\n"


@pytest.fixture
def requeued(run):
    """Two starts of one job on two ranks, the first of which crashed on rank 1."""
    note(
        run,
        queued(logs=run.logs),
        started(),
        Failed("rank", job_id="7", rank=1, host="n2", reason="OSError: disk"),
        ended("crashed", 15),
        started(1, 10, restart=1),
    )
    for rank in (0, 1):
        text = "".join(f"{mark(restart, rank)}rank {rank} start {restart}\n" for restart in (0, 1))
        (run.logs / f"7_{rank}_log.out").write_text(text)
    (run.logs / "7_1_log.err").write_text(f"{mark(0, 1)}OSError: disk\n{mark(1, 1)}")
    return run


def shown(run, options="", code=0):
    return invoke(f"logs mine {options}", code=code)


def test_each_attempt_of_a_requeued_job_has_its_own_part_of_the_log(requeued, monkeypatch):
    assert shown(requeued, "--attempt 0").stdout == f"{mark(0)}rank 0 start 0\n"
    assert shown(requeued, "--attempt 1").stdout == f"{mark(1)}rank 0 start 1\n"
    assert shown(requeued, "--attempt 1 --rank 1").stdout == f"{mark(1, 1)}rank 1 start 1\n"
    assert len(shown(requeued).stdout.splitlines()) == 4, "without --attempt, the log of the job"
    monkeypatch.setattr(logs, "_SEARCHED_BYTES", 10)
    assert "too large to be searched" in shown(requeued, "--attempt 1").stderr


def test_all_ranks_are_merged_with_their_numbers(requeued):
    lines = shown(requeued, "--all-ranks --attempt 0").stdout.splitlines()
    first, second = mark(0).strip(), mark(0, 1).strip()
    assert lines == [
        f"0| {first}",
        "0| rank 0 start 0",
        f"1| {second}",
        "1| rank 1 start 0",
        "1| OSError: disk",
    ]


def test_lines_of_ranks_are_merged_by_their_times_and_those_without_one_follow_the_line_above(
    tmp_path,
):
    first, second = tmp_path / "7_0_log.out", tmp_path / "7_1_log.out"
    first.write_text("2026-11-26T08:00:01 a\nmore of a\n2026-11-26 08:00:03,500 c\n")
    second.write_text("2026-11-26 08:00:02 b\n[rank1]:[E1126 08:00:04.100 x.cpp:1] d\n")
    lines = [
        (rank, line.decode().split()[-1])
        for rank, line in merged([(0, LogRange(first)), (1, LogRange(second))], {})
    ]
    assert lines == [(0, "a"), (0, "a"), (1, "b"), (0, "c"), (1, "d")]


def test_the_rank_that_failed_first_is_shown_and_named(requeued):
    done = shown(requeued, "--failed")
    assert done.stdout == f"{mark(0, 1)}rank 1 start 0\n"
    assert done.stderr.splitlines() == ["rank 1 on n2 failed first in attempt 0", "OSError: disk"]
    assert "attempt 1 did not fail" in shown(requeued, "--failed --attempt 1", code=3).stderr


def test_a_log_that_is_followed_is_printed_once(requeued, scripted):
    scripted.phases["7"] = "gone"
    assert shown(requeued, "-f --attempt 1").stdout == f"{mark(1)}rank 0 start 1\n"
    assert shown(requeued, "-f --attempt 0").stdout == f"{mark(0)}rank 0 start 0\n"
    assert shown(requeued, "-f --tail 1").stdout == "rank 0 start 1\n"


def test_a_log_is_followed_until_its_run_is_left_by_its_owner(requeued, scripted, monkeypatch):
    scripted.phases["7"] = "running"
    note(requeued, ended("finished", 20, attempt=1))
    log = logs.of_training(requeued, 1, 0)
    assert not log.is_growing()
    write_json(requeued.leases / "00000001.json", {"job_id": "7", "host": "n1", "pid": 3})
    os.utime(requeued.leases / "00000001.json", (0, 0))
    assert log.is_growing(), "the clock of its node may be another"
    monkeypatch.setattr(logs, "newest", lambda folder: os.stat("/nowhere"))
    assert log.is_growing(), "nothing is known"


@pytest.mark.parametrize(
    "options", ["--all-ranks --failed", "--failed -f", "--failed --eval x", "--shard 1"]
)
def test_options_that_contradict_each_other_are_refused(requeued, options):
    shown(requeued, options, code=2)


def text(part):
    return b"".join(part.lines()).decode()


def test_a_start_is_cut_out_at_the_marks_with_what_submitit_says_before_it(tmp_path):
    file = tmp_path / "7_0_log.out"
    end = "submitit INFO (2026-11-26 08:00:00,000) - Job completed successfully\n"
    said = "submitit INFO (2026-11-26 08:00:01,000) - Starting with JobEnvironment(job_id=7)\n"
    file.write_text(f"setup\n{mark(0)}a\nb\n{end}{said}{mark(1)}c\n{mark(3)}d\n")
    assert text(cut(file, 0)) == f"setup\n{mark(0)}a\nb\n{end}"
    assert text(cut(file, 1)) == f"{said}{mark(1)}c\n"
    assert text(cut(file, 3)) == f"{mark(3)}d\n"
    assert cut(file, 3).end is None, "it may grow"


def test_the_last_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_BLOCK", 3)
    file, lines = tmp_path / "log", ["one\n", "two\n", "three"]
    file.write_text("".join(lines))
    for number in (0, 1, 2, 3, 9):
        assert (
            text(LogRange(file).last(number)).splitlines(keepends=True)
            == lines[len(lines) - min(number, 3) :]
        )
    assert text(LogRange(file, 4, 8).last(5)) == "two\n"


def test_the_end_of_a_huge_log_is_shown(tmp_path, scripted, monkeypatch):
    monkeypatch.setattr(logs, "MOST_BYTES", 2**16)
    run = trained(run_with(tmp_path / "a", 10), "1")
    with (run.logs / "1_0_log.out").open("wb") as file:
        file.truncate(2**40)
        file.seek(0, os.SEEK_END)
        file.write(b"\nthe end\n")
    done = invoke("logs a")
    assert done.stdout.endswith("the end\n")
    assert "are not shown" in done.stderr
