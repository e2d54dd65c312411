"""Computing the features of training images, and from complete shards the file of their statistics."""

import functools
import shutil
from pathlib import Path

import numpy as np
import torch

from cld_core.data import store
from cld_core.data.images import ImageSet, open_images
from cld_core.errors import DataError, MergeError
from cld_core.shards.compute import Computation
from cld_core.shards.files import Arrays
from cld_core.shards.merging import Merged

from . import extractors, stats_file
from .moments import Moments
from .rows.features import FeatureRows
from .stats_work import Statistics


class StatsComputation(Computation):
    """Rows are the features (last - first, D) of training images; a shard keeps their moments, and them if asked."""

    def __init__(self, work: Statistics, device: torch.device) -> None:
        self._work, self._request, self._device = work, work.request, device

    def prepare(self) -> None:
        """Open the images and the extractor.

        Raises:
            DataError: the images are gone, or others.
            UsageError: the weights are gone or have changed.
        """
        if self._images.n != self._request.images:
            text = f"has {self._images.n} images, but {self._request.images} when the statistics were asked for"
            raise DataError(f"{self._request.data.path} {text}. Re-run `{self._work.command}`.")
        self._extractor()

    def rows(self, kind: str, first: int, last: int) -> Arrays:
        return self._extractor()(self._images.batch(torch.arange(first, last)))

    def keeps_rows(self, kind: str) -> bool:
        return False  # Moments are of all rows together.

    def condense(self, kind: str, rows: Arrays) -> Arrays:
        moments = Moments.of(rows["features"]).arrays()
        return {**moments, **rows} if self._request.features else moments

    def finish(self) -> None:
        """Write the file and remove the shards."""
        request = self._request
        try:
            joined = FeatureRows.join(Merged(self._work).parts("features"))
        except MergeError:
            if self._work.is_done:
                return  # By another process, which has removed the shards in the meantime.
            raise
        about = {
            "identity": request.fingerprint,
            **request.extraction.to_dict(),
            "images": request.images,
            "data": request.data_fingerprint,
            "quantisation": "none: the images are uint8",
        }
        labels = self._labels()
        if labels is not None:
            about["classes"] = list(request.classes)
        stats_file.write(Path(request.output), Moments.from_arrays(joined), joined.get("features"), about, labels)
        shutil.rmtree(self._work.shards, ignore_errors=True)

    def _labels(self) -> np.ndarray | None:
        """The labels of the images, if their features are kept and they have some."""
        root = Path(self._request.data.path)
        return store.read_labels(root, store.find(root), "train") if self._request.classes else None

    @functools.cached_property
    def _images(self) -> ImageSet:
        spec = self._request.data
        return open_images(spec.path, "train", name=spec.name, size=spec.pixels, cache="disk")

    def _extractor(self) -> extractors.Extractor:
        return extractors.load(self._request.extraction, self._request.files, self._device)
