"""How far samples are from the network's own probability flow, solved accurately from the same noise."""

import functools
from collections import OrderedDict
from typing import Any

from torch import Tensor

from cld_core.checkpoint.load import tensors_digest
from cld_core.config.arguments import sampling_spec
from cld_core.shards.files import Arrays

from .samples import SampleRows

# Where the flow ends is kept for the next evaluations of this process, which are of the same noise: of 40 settings that
# are compared, it would take most of the time.
_MOST_BYTES = 256 << 20


class FlowRows(SampleRows):
    """Of the samples ``first <= i < last``, (last - first,) each: ``square``, ``flow_nfe``, ``nfe``, ``nonfinite``.

    ``square`` is the mean square, over the numbers of a sample, of the difference from the end of the flow, which took
    ``flow_nfe`` network evaluations.
    """

    @property
    def total(self) -> int:
        return self.request.sizes["flow"]

    def compute(self, first: int, last: int) -> Arrays:
        drawn = self.draw(first, last)
        end, nfe = self._flow(first, last)
        square = (drawn.x.cpu().double() - end.double()).flatten(1).square().mean(1)
        return {"square": square.numpy(), "flow_nfe": nfe.double().numpy(), **self.about(drawn)}

    def _flow(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """The ends of the flow (last - first, ...) and its evaluations (last - first,), on the CPU.

        Raises:
            SolverError: the tolerance is out of reach.
        """
        asked, seed = self.request.flow, self.request.seed
        solver: dict[str, Any] = {"rtol": asked.rtol, "atol": asked.atol, "precision": "fp32", "compile": False}
        spec = sampling_spec(self.model.recipe, {"method": "ode", **solver}, "flow")
        key = (self._weights, self.request.model_digest, spec, seed, first, last)
        known = _ENDS.get(key)
        if known is None:
            drawn = self.model.draw(last - first, method="ode", seed=seed, first=first, **solver)
            known = (drawn.x.cpu(), drawn.nfe_each.cpu())
            _keep(key, known)
        return known

    @functools.cached_property
    def _weights(self) -> str:
        return tensors_digest({name: tensor.cpu() for name, tensor in self.model.net.state_dict().items()})


_Ends = tuple[Tensor, Tensor]
_ENDS: OrderedDict[Any, _Ends] = OrderedDict()


def _keep(key: Any, ends: _Ends) -> None:
    """Remember ends, and forget the oldest ones beyond the bound."""
    _ENDS[key] = ends
    while len(_ENDS) > 1 and sum(x.nbytes for x, _ in _ENDS.values()) > _MOST_BYTES:
        _ENDS.popitem(last=False)
