"""The `periodic` section: samples, bounds and FIDs that are computed during training."""

from dataclasses import dataclass

from .keys import is_due, key


@dataclass(frozen=True, kw_only=True)
class PeriodicSpec:
    samples_every: int | None = key(None, "steps between two pictures of samples; null: none", ge=1)
    samples_from: int = key(0, "first step at which samples are drawn", ge=0)
    samples: int = key(64, "samples in a picture", ge=1, le=10_000)
    elbo_every: int | None = key(None, "steps between two likelihood bounds; null: none", ge=1)
    elbo_from: int = key(0, "first step at which the bound is computed", ge=0)
    elbo_points: int = key(512, "test points of a bound", ge=1, le=100_000_000)
    fid_every: int | None = key(None, "steps between two FIDs; null: none", ge=1)
    fid_from: int = key(0, "first step at which FID is computed", ge=0)
    fid_samples: int = key(10_000, "samples of an FID; it is biased upwards if there are few", ge=2, le=10_000_000)
    batch_size: int = key(64, "samples or test points that a rank computes at once", ge=1, le=1_000_000)

    def wants_samples(self, step: int) -> bool:
        return is_due(step, self.samples_every, self.samples_from)

    def wants_elbo(self, step: int) -> bool:
        return is_due(step, self.elbo_every, self.elbo_from)

    def wants_fid(self, step: int) -> bool:
        return is_due(step, self.fid_every, self.fid_from)
