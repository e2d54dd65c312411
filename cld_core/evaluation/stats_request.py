"""What `cldctl data stats` is to compute: statistics of which images, by which extractor. Loads no torch."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cld_core.data import presence
from cld_core.errors import NotFoundError, UsageError
from cld_core.recipe import Recipe
from cld_core.recipe.image_spec import ImageDataSpec
from cld_core.run.atomic import read_json, write_json

from . import inputs

# The one kind of work that the shards do.
WORK = "features"


@dataclass(frozen=True, kw_only=True)
class StatsRequest:
    """Statistics of a training set, computed in shards beside the file ``output`` that they end up in.

    ``extractor`` and ``fingerprint`` (of the images) are what the numbers depend on.
    """

    output: str
    data: dict[str, Any]
    fingerprint: str
    images: int
    extractor: dict[str, Any]
    files: dict[str, str | None]
    features: bool
    batch_size: int
    shards: int = 1

    @classmethod
    def of(cls, recipe: Recipe, output: Path | None, *, features: bool, shards: int) -> "StatsRequest":
        """The request for the data, extractor and weights that a recipe names.

        Raises:
            UsageError: the data are no images, or the extractor is not there.
            DataError: the images are not there.
        """
        data = recipe.data
        if not isinstance(data, ImageDataSpec):
            raise UsageError(f"data.name={data.name} are vectors; statistics are of images. Name an image recipe.")
        images = presence.count(data, "train")
        found, _ = inputs.extractor(recipe)
        if output is None:
            from . import statistics

            output = statistics.default_file(data, found.identity)
        return cls(
            output=str(output.absolute()),
            data=asdict(data),
            fingerprint=presence.fingerprint(data, "train"),
            images=images,
            extractor=found.identity,
            files=found.files,
            features=features,
            batch_size=recipe.eval.batch_size,
            shards=min(shards, images),
        )

    @property
    def identity(self) -> str:
        """What stands for the statistics, whoever computes them."""
        return inputs.digest({**self.extractor, "data": self.fingerprint})[:16]

    @property
    def id(self) -> str:
        """What stands for a shard's content."""
        return f"{self.identity}{'-features' if self.features else ''}"

    @property
    def folder(self) -> Path:
        """Where shards, jobs and logs lie until all is done."""
        return Path(f"{self.output}.partial")

    @property
    def is_done(self) -> bool:
        """Whether the file holds what is asked for; one of another request is replaced in the end."""
        from . import statistics

        if not Path(self.output).is_file():
            return False
        found = statistics.outline(Path(self.output))
        return found.about.get("identity") == self.identity and (not self.features or found.features is not None)

    def missing(self) -> list[int]:
        """The shards that are not complete, or one that is left to put them together."""
        states = [read_json(self.folder / "shards" / f"{shard:05d}.json") or {} for shard in range(self.shards)]
        done = [bool(state.get("complete")) and state.get("request") == self.id for state in states]
        return [shard for shard, is_done in enumerate(done) if not is_done] or [0]

    def bounds(self, shard: int) -> tuple[int, int]:
        """First and last-plus-one index of the images of a shard."""
        return shard * self.images // self.shards, (shard + 1) * self.images // self.shards

    def save(self) -> "StatsRequest":
        """Make the folder, and return the request in force: one that was begun keeps its number of shards."""
        begun = read_json(self.folder / "request.json")
        request = self
        if isinstance(begun, dict) and begun.get("id") == self.id:
            request = StatsRequest(**{**asdict(self), "shards": begun["shards"]})
        (self.folder / "shards").mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "request.json", {"id": request.id, **asdict(request)})
        return request

    @classmethod
    def load(cls, folder: Path) -> "StatsRequest":
        """The request of a folder.

        Raises:
            NotFoundError: there is none.
        """
        content = read_json(folder / "request.json")
        if content is None:
            raise NotFoundError(f"{folder}: no statistics are being computed here. Start with `cldctl data stats`.")
        content.pop("id")
        return cls(**content)
