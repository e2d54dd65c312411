"""The statistics of a training set as a kind of sharded work.

Its rows are the features of training images, in a folder beside the file of statistics. Loads torch
to compute them only, and numpy to read a file of statistics only.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from cld_core.computation import Computation, Computer
from cld_core.config import Recipe
from cld_core.config.data import StoredDataSpec
from cld_core.data import store
from cld_core.errors import CldError, DataError, UsageError
from cld_core.ownership import make_private
from cld_core.records import record
from cld_core.run.evaluations import Extraction
from cld_core.run.shards import Rows, ShardedRequest, ShardedWork

from .request import extractor, kinds_of


@record
class StatsRequest(ShardedRequest):
    """The images, the extractor, and the file of statistics.

    Attributes:
        output: the file to write, an absolute path.
        data_fingerprint: the fingerprint of the images.
        images: the number of images.
        features: whether the features themselves are kept, too.
        classes: the classes of the images, whose labels are kept with the features; empty without
            features or labels.
    """

    kind: ClassVar[str] = "statistics"
    sections: ClassVar[tuple[str, ...]] = ("data",)

    output: str
    data: StoredDataSpec
    data_fingerprint: str
    images: int
    extraction: Extraction
    features: bool
    classes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, recipe: Recipe, output: Path | None, *, features: bool, shards: int
    ) -> "StatsRequest":
        """The request for the data, extractor and weights that a recipe names.

        Args:
            output: None for a file beside the images, where evaluations look for it.

        Raises:
            UsageError: the data are not images, or the extractor is missing.
            DataError: the images are missing.
        """
        recipe = recipe.anchored(Path.cwd())
        data = recipe.data
        if not isinstance(data, StoredDataSpec) or "images" not in kinds_of(data):
            raise UsageError(
                f"the examples of data.name={data.name} are not pictures; statistics are of "
                "images. Name an image recipe."
            )
        images = store.of(data)
        classes = images.classes if features else None
        extraction, _, files = extractor(recipe)
        if output is None:
            from . import stats_file

            output = stats_file.default_file(data, extraction)
        request = cls(
            output=str(output.absolute()),
            data=data,
            data_fingerprint=images.split("train").digest,
            images=images.split("train").count,
            extraction=extraction,
            files=files,
            features=features,
            classes=() if classes is None else classes.names,
            batch_size=recipe.eval.batch_size,
            retries=recipe.train.max_retries,
        )
        return request.in_shards(shards)

    @property
    def fingerprint(self) -> str:
        """A digest that identifies the statistics; all files that hold them have the same one."""
        return self.extraction.fingerprint_of_stats(self.data_fingerprint)

    @property
    def id(self) -> str:
        features = "-features" if self.features else ""
        classes = "-classes" if self.classes else ""
        return f"{self.fingerprint}{features}{classes}"

    @property
    def sizes(self) -> dict[str, int]:
        return {"features": self.images}

    @property
    def folder(self) -> Path:
        """Where requests, shards and logs lie until the file is written."""
        return Path(f"{self.output}.partial")

    def save(self) -> Path:
        """Write the request into its folder, see `Request.store`, and return the folder."""
        return self.store(self.folder)


class Statistics(ShardedWork):
    """The work of computing statistics, in a folder beside their file."""

    command = "cldctl data stats"
    request_type = StatsRequest
    doing = "computing features"
    unit = "images"
    request: StatsRequest

    @property
    def name(self) -> str:
        return Path(self.request.output).name

    @property
    def is_done(self) -> bool:
        """Whether the file holds these statistics. A file of other statistics is replaced.

        Raises:
            UsageError: the file is damaged or of another kind, so it is not replaced.
            OSError: the file cannot be read at this moment.
        """
        from . import stats_file

        request = self.request
        if not Path(request.output).is_file():
            return False
        content = stats_file.outline(Path(request.output))
        if content.about.get("identity") != request.fingerprint:
            return False
        return not request.features or (
            content.features is not None and content.classes == request.classes
        )

    def make_folder(self) -> None:
        """Make the folder, with write access for this user only.

        Raises:
            CldError: another user owns it, or it cannot be created.
        """
        try:
            make_private(self.folder, "jobs would compute, and import, what is in it")
        except OSError as error:
            raise CldError(
                f"{self.folder}: the folder cannot be made ({error.strerror}). Write the "
                "statistics to another place with -o."
            ) from error

    def rows(self, kind: str) -> Rows:
        return Rows(self.folder / "rows" / self.request.fingerprint, self.request.chunk(kind))


class StatisticsComputation(Computation):
    """Statistics, in a process that computes them."""

    work: Statistics

    def computers_on(self, device: Any) -> dict[str, Computer]:
        from .features import ImageRows

        request = self.work.request
        computer = ImageRows(request.data, request.extraction, request.files, device)
        if computer.n != request.images:
            raise DataError(
                f"{request.data.path} has {computer.n} images, but {request.images} when the "
                f"statistics were requested. Re-run `{self.work.command}`."
            )
        return {"features": computer}

    def finish(self) -> None:
        """Write the file and remove the rows."""
        import numpy as np

        from . import stats_file

        request = self.work.request
        features: Iterable[np.ndarray] = (part["features"] for part in self.parts("features"))
        if request.features:
            features = list(features)
        mu, sigma = stats_file.moments(features)
        arrays = {"mu": mu, "sigma": sigma}
        about: dict[str, Any] = {
            "identity": request.fingerprint,
            **request.extraction.to_dict(),
            "images": request.images,
            "data": request.data_fingerprint,
            "quantisation": "none: the images are uint8",
        }
        if request.features:
            arrays[stats_file.FEATURES] = np.concatenate(list(features))
        if request.classes:
            arrays[stats_file.LABELS] = store.of(request.data).labels("train")
            about["classes"] = list(request.classes)
        stats_file.write(Path(request.output), about, arrays)
        shutil.rmtree(self.work.folder / "rows", ignore_errors=True)
