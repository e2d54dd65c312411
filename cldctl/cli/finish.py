"""The end of commands that start works: report them, wait if requested, and show results."""

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


def wait(submission: Submission, follow: bool) -> bool:
    """Watch works until all are over, if this is requested or the cluster blocks.

    Returns:
        Whether the command waited: then, works that are not complete are a failure.
    """
    waits = bool(submission.works) and (follow or submission.blocks)
    if waits and not submission.is_over:
        watch([planned.work for planned in submission.works], submission)
    return waits


def watch(works: Sequence[Work], submission: Submission) -> "WorkStates":
    """Show works until all are over. Ctrl-C ends the watching, not the jobs.

    Args:
        works: the works of ``submission``, or the evaluations that wait for them.

    Returns:
        The last states of the works.

    Raises:
        typer.Exit: Ctrl-C was pressed.
    """
    from cldctl.runs.follow import follow

    try:
        with View() as view:
            for look in follow(works):
                view.draw(works, look, submission)
    except KeyboardInterrupt:
        say_unwatched(None if works[0].run is None else submission.place)
        raise typer.Exit(130) from None
    return look


def finish_trainings(submission: Submission, follow: bool) -> int:
    """Print what was started, and follow it if this is requested; return the exit code.

    The evaluations that wait for the trainings are watched, too.
    """
    say_trainings(submission)
    if not (follow or submission.blocks):
        say_next_of_trainings(submission)
        return submission.exit_code
    from cldctl.runs.follow import exit_code

    look = watch([planned.work for planned in submission.works], submission)
    pairs = zip(submission.works, look.states, strict=True)
    finished = {planned.run.path for planned, state in pairs if state == "FINISHED"}
    works = [work for work in submission.chained if work.run.path in finished]
    if works:
        watch(works, submission)
    code = exit_code(look.states)
    if submission.group is None:
        code = say_end_of_run(submission.works[0].run, look.rows[0], works) or code
    else:
        incomplete = say_end_of_group(submission.group, works)
        code = code or incomplete
        say_next_of_group(submission.group, look.rows, code, evaluated=bool(works))
    return code or submission.exit_code


def finish_evaluations(submission: Submission, follow: bool) -> int:
    """Print which evaluations were started, and follow them if requested; return the exit code."""
    say_divided(submission)
    waited = wait(submission, follow)
    return say_end_of_evaluations(submission, waited=waited)
