"""Following works of any kind until they are over, by looks at their states."""

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
        states: of the works, in their order.
        rows: of trainings, the rows of `cldctl status`; empty for other works.
    """

    answers: Answers
    states: Sequence[str]
    rows: Sequence[RunStatus] = ()


def follow(works: Sequence[Work]) -> Iterator[WorkStates]:
    """Look at trainings, or at other works, until all of them are over, with pauses.

    A job that returns to the queue looks over for a moment, so that several looks must agree.
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
    """The states of trainings, or of other works, by answers of at most an age in seconds."""
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
    """0 if all works are finished, 5 if the others were cancelled, 1 if one failed or stopped."""
    others = set(states) - {"FINISHED"}
    if not others:
        return 0
    return 5 if others == {"CANCELLED"} else 1
