"""Events of made-up ledgers."""

import time

from cld_core.run.events import Failed, JobRef


def job(job_id: str, cluster: str = "scripted", logs: str = "") -> JobRef:
    return JobRef(cluster=cluster, job_id=job_id, logs=logs, restarts=True)


def unfit(host: str = "n1", restart: int = 0, ago: float = 0.0) -> Failed:
    reason, when = f"{host}: gpu: it is gone", time.time() - ago
    return Failed("unfit", time=when, job_id="7", restart=restart, rank=0, host=host, check="gpu", reason=reason)
