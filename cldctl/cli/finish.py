"""How commands end that have started works: they say so, wait if requested, and show results."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import typer

from cld_core.run.work import Work
from cldctl.runs.start import Started
from cldctl.show import submission

if TYPE_CHECKING:
    from cldctl.runs.follow import Look


def finish(
    started: Started,
    follow: bool,
    say: Callable[[Started], None],
    end: "Callable[[Look | None], int]",
) -> int:
    """Print what was started, and follow it if this is requested; return the exit code.

    Args:
        say: prints what was started.
        end: prints how the works ended, and returns the exit code; if the command has not waited,
            it gets None, and prints what to type next.
    """
    say(started)
    look = None
    if (follow or started.blocks) and not started.is_over:
        look = watch([planned.work for planned in started.works], started)
    return end(look)


def watch(works: Sequence[Work], started: Started) -> "Look":
    """Show works until all are over. Ctrl-C ends the watching, not the jobs.

    Args:
        works: those of ``started``, or the evaluations that follow them.

    Returns:
        The last look.

    Raises:
        typer.Exit: the watching was interrupted.
    """
    from cldctl.runs.follow import follow
    from cldctl.show.follow import View

    try:
        with View() as view:
            for look in follow(works):
                view.draw(works, look, started)
    except KeyboardInterrupt:
        submission.say_unwatched(None if works[0].run is None else started.place)
        raise typer.Exit(130) from None
    return look


def finish_trainings(started: Started, follow: bool) -> int:
    """`finish`, for trainings and the evaluations that follow them."""

    def end(look: "Look | None") -> int:
        if look is None:
            submission.say_next_of_trainings(started)
            return started.exit_code
        from cldctl.runs.follow import exit_code

        ended = zip(started.works, look.states, strict=True)
        finished = {planned.run.path for planned, state in ended if state == "FINISHED"}
        works = [work for work in started.following if work.run.path in finished]
        if works:
            watch(works, started)
        code = exit_code(look.states)
        if started.group is None:
            code = submission.say_end_of_run(started.works[0].run, look.rows[0], works) or code
        else:
            code = code or submission.say_end_of_group(started.group, works)
            submission.say_next_of_group(started.group, look.rows, code, evaluated=bool(works))
        return code or started.exit_code

    return finish(started, follow, submission.say_trainings, end)


def finish_evaluations(started: Started, follow: bool) -> int:
    """`finish`, for evaluations of a run or a group."""

    def end(look: "Look | None") -> int:
        return submission.say_end_of_evaluations(started, waited=look is not None)

    return finish(started, follow, submission.say_divided, end)
