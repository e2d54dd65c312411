"""One stretch of training, as the ledger tells it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from . import events
from .events import Cause


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One stretch of training; ``cause`` and ``ended`` are None while it lasts, and if nobody recorded its end.

    Attributes:
        warning: what is wrong while it lasts.
        restart: earlier starts of its job by the launcher.
        log_offset: size in bytes of the launcher's log when it began; None if there is none.
        bug: it ended by an error in code or recipe, which another start would meet again.
        noted_end: the end was written when it came; else ``ended`` is when somebody found out.
        began: when its machines were given to it; None if nobody recorded that.
        heard: when the attempt before it last reported.
        rewound: somebody named the step that it began from.
        ranks: of it, and the ``gpus`` and ``cores`` that were reserved.
        code: the digest of the code that it runs; with versions, gpu and driver as in `events.Started`.
        asked: the digest of the code that it was to run, as in `events.Requested`.
        hosts: the machine of each rank.
        data: what identifies its data (`same_data`).
    """

    attempt: int
    job_id: str | None
    started: float
    first_step: int
    ended: float | None = None
    cause: Cause | None = None
    last_step: int | None = None
    detail: str | None = None
    host: str | None = None
    warning: str | None = None
    restart: int = 0
    log_offset: int | None = None
    bug: bool = False
    noted_end: bool = False
    began: float | None = None
    heard: float | None = None
    rewound: bool = False
    ranks: int | None = None
    gpus: int | None = None
    cores: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None
    asked: str | None = None
    gpu: str | None = None
    driver: str | None = None
    hosts: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)


def imported(event: events.Imported) -> Attempt:
    return Attempt(
        attempt=0,
        job_id=None,
        started=event.time,
        first_step=event.step,
        ended=event.time,
        cause="finished" if event.finished else "imported",
        last_step=event.step,
        detail=f"imported from {event.source}",
        noted_end=True,
    )


def started(event: events.Started, asked: str | None = None, *, rewound: bool = False) -> Attempt:
    return Attempt(
        attempt=event.attempt,
        job_id=event.job_id,
        started=event.time,
        first_step=event.step,
        host=event.host,
        warning=event.warning,
        restart=event.restart,
        log_offset=event.log_offset,
        began=event.began,
        heard=event.heard,
        rewound=rewound,
        ranks=event.ranks,
        gpus=event.gpus,
        cores=event.cores,
        versions=event.versions,
        code=event.code,
        asked=asked,
        gpu=event.gpu,
        driver=event.driver,
        hosts=event.hosts,
        data=event.data,
    )


def ended(attempt: Attempt, event: events.Ended, cause: Cause) -> Attempt:
    """The attempt with its end; ``cause`` is that of the event, if nothing else explains it better."""
    return replace(
        attempt,
        ended=event.time,
        cause=cause,
        last_step=event.step,
        detail=event.detail,
        bug=event.bug,
        noted_end=True,
    )
