"""How commands end that have started works: they say so, wait if requested, and show results."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from cld_core.run.work import Work
from cldctl.runs.start import Submission
from cldctl.show.follow import (
    View,
    say_divided,
    say_end_of_evaluations,
    say_end_of_group,
    say_end_of_run,
    say_next_of_group,
    say_next_of_trainings,
    say_trainings,
    say_unwatched,
)

if TYPE_CHECKING:
    from cldctl.runs.follow import WorkStates


def wait(started: Submission, follow: bool) -> bool:
    """Watch works until all are over, if this is requested or the cluster blocks.

    Returns:
        Whether it is: works that are not complete afterwards are a failure.
    """
    waits = bool(started.works) and (follow or started.blocks)
    if waits and not started.is_over:
        watch([planned.work for planned in started.works], started)
    return waits


def watch(works: Sequence[Work], started: Submission) -> "WorkStates":
    """Show works until all are over. Ctrl-C ends the watching, not the jobs.

    Args:
        works: those of ``started``, or the evaluations that follow them.

    Returns:
        The last look.

    Raises:
        typer.Exit: the watching was interrupted.
    """
    from cldctl.runs.follow import follow

    try:
        with View() as view:
            for look in follow(works):
                view.draw(works, look, started)
    except KeyboardInterrupt:
        say_unwatched(None if works[0].run is None else started.place)
        raise typer.Exit(130) from None
    return look


def finish_trainings(started: Submission, follow: bool) -> int:
    """Print what was started, and follow it if this is requested; return the exit code.

    The evaluations that follow the trainings are watched, too.
    """
    say_trainings(started)
    if not (follow or started.blocks):
        say_next_of_trainings(started)
        return started.exit_code
    from cldctl.runs.follow import exit_code

    look = watch([planned.work for planned in started.works], started)
    pairs = zip(started.works, look.states, strict=True)
    finished = {planned.run.path for planned, state in pairs if state == "FINISHED"}
    works = [work for work in started.following if work.run.path in finished]
    if works:
        watch(works, started)
    code = exit_code(look.states)
    if started.group is None:
        code = say_end_of_run(started.works[0].run, look.rows[0], works) or code
    else:
        incomplete = say_end_of_group(started.group, works)
        code = code or incomplete
        say_next_of_group(started.group, look.rows, code, evaluated=bool(works))
    return code or started.exit_code


def finish_evaluations(started: Submission, follow: bool) -> int:
    """`finish_trainings`, for evaluations of a run or a group."""
    say_divided(started)
    waited = wait(started, follow)
    return say_end_of_evaluations(started, waited=waited)
