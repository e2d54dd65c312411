"""Following works (`--follow`): looking at their states until all of them are over."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cld_core.run.state import OVER, ShardedFacts, state_of
from cld_core.run.work import Work

from . import survey
from .status import RunStatus, status_or_reason
from .survey import Answers


@dataclass(frozen=True)
class WorkStates:
    """What works are doing.

    Attributes:
        states: the state of each work, in their order.
        rows: the rows of `cldctl status`, if the works are trainings; else empty.
    """

    answers: Answers
    states: Sequence[str]
    rows: Sequence[RunStatus] = ()


def follow(works: Sequence[Work]) -> Iterator[WorkStates]:
    """Yield the states of trainings, or of other works, again and again until all are over.

    A job that returns to the queue seems to be over for a moment, so several looks must agree.
    """
    ends = survey.EndDetector()
    while True:
        look = states_of(works, ends.max_age_s)
        yield look
        states = set(look.states)
        is_sure = states <= {"FINISHED", "CANCELLED"}
        is_believed = ends.look(states <= OVER, look.answers, is_sure=is_sure)
        if is_believed or states <= {"FINISHED"}:
            return
        time.sleep(look.answers.pause_s)


def states_of(works: Sequence[Work], max_age_s: float = 0.0) -> WorkStates:
    """The states of trainings, or of other works.

    Args:
        max_age_s: the greatest age of the answers of a launcher, seconds; 0 for new answers.
    """
    if works[0].is_world:
        runs = [work.run for work in works if work.run is not None]
        answers = survey.of_runs(runs, max_age_s=max_age_s)
        rows = [status_or_reason(run, answers) for run in runs]
        return WorkStates(answers, [row.state for row in rows], rows)
    histories = [work.history() for work in works]
    submitted = (event.job for history in histories for event in history.submitted)
    answers = survey.ask(submitted, max_age_s=max_age_s)
    states = [
        state_of(history, ShardedFacts(work), answers).name
        for work, history in zip(works, histories, strict=True)
    ]
    return WorkStates(answers, states)


def exit_code(states: Iterable[str]) -> int:
    """The exit code: 0 if all works are finished, 5 if the others were cancelled, else 1."""
    others = set(states) - {"FINISHED"}
    if not others:
        return 0
    return 5 if others == {"CANCELLED"} else 1
