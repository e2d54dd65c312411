"""Events of made-up ledgers."""

from cld_core.run.events import JobRef


def job(job_id: str, cluster: str = "scripted", logs: str = "") -> JobRef:
    return JobRef(cluster=cluster, job_id=job_id, logs=logs, restarts=True)
