"""What is shown of the run that is selected: time line of its attempts, shards, results, why it waits."""

from cld_core.run import RunFolder
from cldctl.runs.status import status_or_reason
from cldctl.runs.survey import Answers
from cldctl.show.format import duration
from cldctl.top import panel
from cldctl.top.detail import detail_of
from tests.support.piloted import Screen, on_screen


def test_attempts_are_a_time_line_and_shards_a_grid(fleet):
    async def look(screen: Screen) -> None:
        await screen.select("celebahq-cld-1125-0911-k3fa")
        await screen.sees("attempts", "shards")
        (line,) = [line for line in screen.lines if line.startswith(" attempts")]
        bar = line[10:]
        assert [mark for mark in bar if mark in "PX▶"] == ["P", "X", "▶"]
        assert len(bar) == 80 - 3 - 9, "the whole width"
        assert bar.startswith("░"), "it waited first"
        assert "3 attempts: P preempted  X crashed  ▶ running  ░ queued  ▒ starting" in screen.text
        assert "1d05h" in screen.text
        assert "now" in screen.text
        (grid,) = [line.split()[0] for line in screen.lines if line.strip().startswith("■■■")]
        assert grid == "■" * 17 + "▶" + "░" * 4 + "×" + "░" * 15 + "·" * 2
        assert "RUNNING  17/40 shards" in screen.text
        assert "■ done  ▶ running  ░ waiting  × failed  · missing" in screen.text

    on_screen(fleet.root, look)


def test_the_panel_scrolls_to_every_attempt(fleet):
    async def look(screen: Screen) -> None:
        await screen.select("celebahq-cld-1125-0911-k3fa")
        await screen.sees("#2", "step 220,000 to 398,200")
        assert "#0" not in screen.text
        await screen.press("tab", "end")
        await screen.sees("#0", "crashed: rank 2 on n11: CUDA error")
        await screen.press("tab", "up")
        await screen.sees("› cifar10-…25-1730-x9e0")

    on_screen(fleet.root, look)


def test_an_attempt_ran_as_long_as_status_and_why_say(fleet):
    run, answers = RunFolder(fleet.root / "celebahq-cld-1125-0911-k3fa"), Answers({})
    row = status_or_reason(run, answers)
    detail = detail_of(row, answers)
    assert any(it.startup_s > 60 for it in detail.attempts), "else it does not matter whether starting counts"
    told = [line.plain for line in panel.of_run(detail, [], 120) if line.plain.startswith("#")]
    assert [line[:2] for line in told] == ["#2", "#1", "#0"]
    for line, attempt in zip(told, reversed(row.attempts), strict=True):
        assert f", ran {duration(attempt['ran_s'])} " in line


def test_results_of_evaluations_are_numbers_with_their_errors(fleet):
    async def look(screen: Screen) -> None:
        await screen.select("toy-diamond-1124-1502-aa10")
        await screen.sees("2.339 ± 0.004", "true entropy 2.303", "FINISHED")
        assert "■" not in screen.text, "all of its shards are done"

    on_screen(fleet.root, look)


def test_why_a_job_waits_is_said_in_plain_words(fleet):
    async def look(screen: Screen) -> None:
        await screen.select("cifar10-cld-1126-0802-77bd")
        await screen.sees("jobs of higher priority come first (Priority)", "no checkpoint")
        await screen.select("cifar10-vpsde-1125-1730-x9e0")
        await screen.sees("it may not begin yet", "T timeout", "░ queued")

    on_screen(fleet.root, look)
    assert set(fleet.slurm.calls) <= {"squeue", "sacct"}, "as `status`: nobody asks scontrol about one job"


def test_a_screen_of_80_by_24_has_everything_and_cuts_no_key(fleet):
    async def look(screen: Screen) -> None:
        await screen.select("celebahq-cld-1125-0911-k3fa")
        await screen.sees("shards")
        lines = screen.lines
        assert len(lines) == 24
        assert max(map(len, lines)) <= 80
        assert (
            lines[0].split("  ")[0] == "2 RUNNING 1 REQUEUED 2 PENDING 1 FAILED 2 LOST 1 STOPPED 1 CANCELLED 1 FINISHED"
        )
        assert lines[1].split() == ["run", "state", "step", "loss", "curve", "loss", "steps/s", "ETA"]
        assert lines[1].endswith("ETA")
        keys = "enter logs  r resume  c cancel  / filter  s sample  o report  ? help  q quit"
        assert lines[-1] == keys
        assert sum("RUNNING" in line for line in lines[2:12]) == 3, "runs and a group"
        await screen.press("question_mark")
        await screen.sees("up down scroll", "select a run", "cancel the run, or all runs of a group")
        await screen.press("end")
        await screen.sees("shards: failed, missing", "esc back")
        await screen.press("escape")

    on_screen(fleet.root, look, size=(80, 24))


def test_a_smaller_screen_has_fewer_columns_and_whole_words(fleet):
    async def look(screen: Screen) -> None:
        await screen.select("celebahq-cld-1125-0911-k3fa")
        assert screen.lines[1].split() == ["run", "state", "step", "loss", "ETA"]
        (line,) = [line for line in screen.lines if line.startswith("›")]
        assert line.endswith("0.4137 21h25m")
        assert screen.lines[-1] == "enter logs  r resume  c cancel  / filter  ? help  q quit"
        assert screen.lines[0].endswith("2 LOST 1 STOPPED …")
        await screen.resize(30, 10)
        await screen.until(lambda: screen.lines[-1] == "enter logs  ? help  q quit")
        await screen.resize(12, 4)
        await screen.until(lambda: len(screen.lines) == 4)
        await screen.resize(200, 60)
        await screen.sees("why", "enter logs  r resume  c cancel  / filter  s sample  o report  ? help  q quit")
        await screen.sees("celebahq-cld-1125-0911-k3fa  RUNNING", "rank 2 on n11: ValueError: spiral arms must be odd")

    on_screen(fleet.root, look, size=(60, 20))
