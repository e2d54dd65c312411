"""The sections `monitor`, where a training is shown besides TensorBoard, and `hooks`, commands that hear about it.

They change no number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal
from urllib.parse import urlsplit

from cld_core.errors import RecipeError
from cld_core.sanitize import is_count, one_line

from .keys import Problem, key, section

# What a store of MLflow may be: a server, Databricks, a data base, or a folder.
_SERVERS = ("http", "https", "databricks", "databricks-uc")
_STORES = ("sqlite", "postgresql", "mysql", "mssql", "file")


@dataclass(frozen=True, kw_only=True)
class WandbSpec:
    project: str | None = key(None, "project of Weights & Biases in which the run is shown; null: none")
    entity: str | None = key(None, "user or team that has the project; null: your default")
    mode: Literal["online", "offline", "disabled"] = key(
        "online", "offline: write into the run folder only, for `wandb sync`"
    )

    @property
    def is_on(self) -> bool:
        return self.project is not None and self.mode != "disabled"


@dataclass(frozen=True, kw_only=True)
class MlflowSpec:
    tracking_uri: str | None = key(None, "server or data base of MLflow that shows the run; null: none")
    experiment: str = key("cldctl", "experiment that the run belongs to")

    @property
    def is_on(self) -> bool:
        return self.tracking_uri is not None

    def problem(self) -> str | None:
        """What is wrong with the address, and how to fix it; it never repeats a password."""
        if self.tracking_uri is None:
            return None
        try:
            parts = urlsplit(self.tracking_uri)
            secret, host = parts.password is not None, parts.hostname
        except ValueError:
            return "is not an address. Set it to the address of your MLflow server."
        if secret:
            fix = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where jobs start instead"
            return f"holds a password, and the recipe is stored in the run folder. {fix}."
        kind = parts.scheme.partition("+")[0] or self.tracking_uri
        if kind not in _SERVERS + _STORES or (kind in ("http", "https") and not host):
            expected = "expected http://HOST:PORT, https://HOST or sqlite:////ABSOLUTE/FILE.db"
            return f"cannot be {one_line(self.tracking_uri, 60)!r}; {expected}. Correct it."
        if kind in ("sqlite", "file") and not parts.path.startswith("//" if kind == "sqlite" else "/"):
            fix = f"{kind}:///{'/' if kind == 'sqlite' else ''}ABSOLUTE/PATH"
            return f"is a relative path, and jobs run in another folder. Write {fix}."
        return None


@dataclass(frozen=True, kw_only=True)
class MonitorSpec:
    wandb: WandbSpec = section(WandbSpec, "Weights & Biases")
    mlflow: MlflowSpec = section(MlflowSpec, "MLflow")

    def chosen(self) -> tuple[str, ...]:
        """The names of the loggers that are switched on."""
        return tuple(name for name in ("wandb", "mlflow") if getattr(self, name).is_on)

    def problems(self) -> Iterator[Problem]:
        """Keys of what is typed that are wrong."""
        if (text := self.mlflow.problem()) is not None:
            yield "mlflow.tracking_uri", "mlflow.tracking_uri", text
        for path, name in (("wandb.project", self.wandb.project), ("wandb.entity", self.wandb.entity)):
            if name is not None and (not name.strip() or set(name) & set("/\\#?%:")):
                text = f"cannot be {one_line(name, 60)!r}; expected a name without /\\#?%:. Correct it."
                yield path, path, text

    def require_installed(self) -> None:
        """Refuse loggers whose package is missing here.

        Raises:
            RecipeError: names the package, and how to install it.
        """
        for name in self.chosen():
            if find_spec(name) is None:
                text = f"'monitor.{name}' needs the package {name}, which is not installed"
                raise RecipeError(f"{text}. Run `pip install 'cldctl[{name}]'`, or leave the section out.")


@dataclass(frozen=True, kw_only=True)
class HooksSpec:
    on_change: str | None = key(None, "shell command that runs when the state of the run changes")
    timeout_s: float = key(30.0, "seconds after which the command is ended", gt=0, le=3600)

    def problems(self) -> Iterator[Problem]:
        """A command that is a slip."""
        if self.on_change is not None and is_count(self.on_change.strip().lstrip("-")):
            text = f"cannot be {self.on_change}, a number; expected a shell command. Write one, or leave it out."
            yield "on_change", "on_change", text
