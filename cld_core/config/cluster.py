"""The `cluster` section: the resources and options of a job."""

import re
from collections.abc import Iterator

from cld_core.sanitize import has_control

from .keys import Problem, entries, key, spec_class

# sbatch reads a backslash as an escape even between quotes, which would move the end of a text.
_MISREAD = re.compile(r"""['"\\]""")
# Keys whose value is one word of an option.
_WORDS = ("partition", "account", "qos", "gres", "constraint", "exclude")
# Keys that only a scheduler understands.
SCHEDULER_KEYS = (*_WORDS, "sbatch_args", "srun_args")
_NOT_IN_A_WORD = re.compile(r"\s|#")
# The number of GPUs of a node, as in gpu:a100:8.
_GRES_COUNT = re.compile(r"\bgpu(?::[^:,(]+)?:([0-9]{1,4})\b")
# sbatch reads these comments as options until the first command, those of other schedulers too.
_DIRECTIVE = re.compile(r"\s*#(SBATCH|PBS|BSUB)")
# Commands that would replace the batch script, or its traps.
_TAKES_OVER = re.compile(r"\s*(exec|trap)\b")


@spec_class
class ClusterSpec:
    nodes: int = key(1, "number of machines", ge=1, le=100_000)
    gpus_per_node: int = key(0, "GPUs per machine; 0: CPU only", ge=0, le=1024)
    tasks_per_node: int | None = key(
        None, "ranks per machine; null: one per GPU, at least one", ge=1, le=1024
    )
    time_min: int | None = key(
        None, "time limit of one job in minutes; null: the cluster's default", ge=1, le=10_000_000
    )
    partition: str | None = key(
        None, "Slurm partition, or several with commas between them: low,high"
    )
    account: str | None = key(None, "Slurm account")
    qos: str | None = key(None, "Slurm quality of service")
    mem_gb: float | None = key(None, "memory per node in GB", gt=0, le=1_000_000)
    cpus_per_task: int | None = key(
        None,
        "CPU cores per rank, and its threads in training on a CPU; null: as Slurm and torch choose",
        ge=1,
        le=100_000,
    )
    gres: str | None = key(None, "generic resources instead of gpus_per_node, such as gpu:a100:8")
    constraint: str | None = key(None, "features that nodes must have")
    exclude: str | None = key(None, "nodes to avoid")
    setup: tuple[str, ...] = key((), "shell lines before the job, such as module load cuda")
    sbatch_args: tuple[str, ...] = key((), "further options of sbatch, such as --mail-type=END")
    srun_args: tuple[str, ...] = key((), "further options of srun, such as --cpu-bind=cores")
    container: str | None = key(
        None, "command in front of python, such as apptainer exec --nv image.sif"
    )
    signal_s: int | None = key(
        None,
        "seconds before the time limit at which to stop and save; null: from measured saves",
        ge=5,
        le=1_000_000,
    )
    successor: bool = key(
        False,
        "keep a successor job queued, for clusters where preemption cancels jobs instead of "
        "requeueing them",
    )

    @property
    def ranks_per_node(self) -> int:
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def uses_gpu(self) -> bool:
        """Whether GPUs are requested. If not, ranks do not use those that a machine may have."""
        others = (self.gres or "", *self.sbatch_args, *self.srun_args)
        return self.gpus_per_node > 0 or any("gpu" in text for text in others)

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def gpus(self) -> int:
        """GPUs that are reserved for a job; one per rank if `gres` or an option has no number."""
        if self.gpus_per_node or not self.uses_gpu:
            return self.nodes * self.gpus_per_node
        counted = _GRES_COUNT.search(self.gres or "")
        return self.nodes * int(counted[1]) if counted else self.world_size

    @property
    def cores(self) -> int:
        """CPU cores that are reserved for a job, at least one per rank."""
        return self.world_size * (self.cpus_per_task or 1)

    def problems(self) -> Iterator[Problem]:
        """The keys whose texts a batch script would read as something else."""
        for name in entries(ClusterSpec):
            value = getattr(self, name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and (problem := _problem(name, text)):
                    yield name, name, f"cannot be {text!r}: {problem}."


def not_plain(text: str) -> str | None:
    """Why a text cannot be part of a script, an environment or a name; None if it can."""
    if has_control(text):
        return "it has a line break or another control character. Remove it"
    return None


def misread(text: str) -> str | None:
    """Why sbatch would misread a text in the options of a script; None if it would not."""
    if _MISREAD.search(text):
        return "sbatch would misread its quote or backslash. Remove it"
    return not_plain(text)


def _problem(name: str, text: str) -> str | None:
    if name == "setup":
        # An entry is shell code, which may have several lines, and indented ones.
        lines = text.replace("\t", " ").split("\n")
        if any(map(_DIRECTIVE.match, lines)):
            return "sbatch would read it as an option. Use cluster.sbatch_args"
        if any(map(_TAKES_OVER.match, lines)):
            return "what follows the job's end would not run. Write it without exec and trap"
        return next(filter(None, map(not_plain, lines)), None)
    if (problem := not_plain(text)) is not None:
        return problem
    if not text.strip():
        return "it is empty. Set it to null, or remove it"
    if name in _WORDS and _NOT_IN_A_WORD.search(text):
        return "it has a space or '#'. Remove it; further options belong in cluster.sbatch_args"
    return misread(text) if name in (*_WORDS, "sbatch_args") else None
