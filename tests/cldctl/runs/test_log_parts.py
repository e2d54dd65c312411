"""Logs that several starts of a job append to."""

import time

import pytest

from cldctl.runs import logs
from cldctl.runs.logs import Part, cut, merged, time_of


def mark(restart, rank=0):
    return f"--- start {restart} of job 7: rank {rank} on n1, 2026-11-26T08:00:0{restart} ---\n"


def text(part):
    return b"".join(part.lines()).decode()


@pytest.fixture
def log(tmp_path):
    def write(content, name="7_0_log.out"):
        file = tmp_path / name
        file.write_text(content)
        return file

    return write


def test_a_start_is_cut_out_at_the_marks_with_what_submitit_says_before_it(log):
    end = "submitit INFO (2026-11-26 08:00:00,000) - Job completed successfully\n"
    said = "submitit INFO (2026-11-26 08:00:01,000) - Starting with JobEnvironment(job_id=7)\n"
    said += "submitit INFO (2026-11-26 08:00:01,100) - Loading pickle: 7_submitted.pkl\n"
    file = log(f"setup\n{mark(0)}a\nb\n{end}{said}{mark(1)}c\n{mark(3)}d\n")
    assert text(cut(file, 0)) == f"setup\n{mark(0)}a\nb\n{end}"
    assert text(cut(file, 1)) == f"{said}{mark(1)}c\n"
    assert text(cut(file, 3)) == f"{mark(3)}d\n"
    assert cut(file, 3).end is None, "it may grow"


def test_a_mark_is_found_wherever_blocks_end(log, monkeypatch):
    for pad in range(0, 80, 7):
        file = log("x" * (2**20 - pad) + "\n" + mark(0) + "a\n" + mark(1) + "b\n")
        assert text(cut(file, 1)) == mark(1) + "b\n"


def test_a_log_of_errors_is_read_without_its_marks(log):
    assert text(cut(log(f"{mark(0)}error\n", "7_0_log.err"), 0)) == "error\n"


def test_the_last_lines(log, monkeypatch):
    monkeypatch.setattr(logs, "_BLOCK", 3)
    file = log("one\ntwo\nthree\n")
    assert [text(Part(file).last(number)) for number in (0, 1, 2, 3, 9)] == [
        "",
        "three\n",
        "two\nthree\n",
        "one\ntwo\nthree\n",
        "one\ntwo\nthree\n",
    ]
    assert text(Part(file, 4, 8).last(5)) == "two\n"
    assert text(Part(log("one\ntw")).last(1)) == "tw"


def test_lines_of_ranks_are_merged_by_their_times_and_those_without_one_follow_the_line_above(log):
    first = log("2026-11-26T08:00:01 a\nmore of a\n2026-11-26 08:00:03,500 c\n", "7_0_log.out")
    second = log("2026-11-26 08:00:02 b\n[rank1]:[E1126 08:00:04.100 x.cpp:1] d\n", "7_1_log.out")
    lines = [(rank, line.decode().split()[-1]) for rank, line in merged([(0, Part(first)), (1, Part(second))])]
    year = time.localtime().tm_year
    assert lines[:4] == [(0, "a"), (0, "a"), (1, "b"), (0, "c")]
    assert len(lines) == 5 or year != 2026


def test_what_looks_like_a_time_and_is_none_is_none():
    assert time_of(b"2026-99-99T99:99:99") is None or time_of(b"2026-99-99T99:99:99") > 0
    assert time_of(b"step 5/60 loss 2.0") is None
    assert time_of(b"x" * 500 + b"2026-11-26T08:00:01") is None
    early, late = time_of(b"2026-11-26T08:00:01"), time_of(b"submitit INFO (2026-11-26 08:00:01,250) - x")
    assert late - early == 0.25
