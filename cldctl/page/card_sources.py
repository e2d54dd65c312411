"""What model cards say about diffusions: their names, and the papers to cite."""

from dataclasses import dataclass

NAMES = {
    "cld": "critically-damped Langevin diffusion (CLD)",
    "vpsde": "variance-preserving diffusion (VPSDE)",
    "psld": "phase-space Langevin diffusion (PSLD)",
    "hold": "critically-damped Langevin diffusion of third order (HOLD)",
}


@dataclass(frozen=True)
class Source:
    """A paper and its entry of a bibliography."""

    url: str
    bibtex: str


_CLD = Source(
    "https://arxiv.org/abs/2112.07068",
    """
@inproceedings{dockhorn2022score,
  title     = {Score-Based Generative Modeling with Critically-Damped Langevin Diffusion},
  author    = {Dockhorn, Tim and Vahdat, Arash and Kreis, Karsten},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2022},
  url       = {https://arxiv.org/abs/2112.07068}
}
""",
)
_OTHERS = {
    "psld": Source(
        "https://arxiv.org/abs/2303.01748",
        """
@inproceedings{pandey2023complete,
  title     = {A Complete Recipe for Diffusion Generative Models},
  author    = {Pandey, Kushagra and Mandt, Stephan},
  booktitle = {International Conference on Computer Vision (ICCV)},
  year      = {2023},
  url       = {https://arxiv.org/abs/2303.01748}
}
""",
    ),
    "hold": Source(
        "https://arxiv.org/abs/2404.12814",
        """
@misc{shi2024generative,
  title  = {Generative Modelling with High-Order Langevin Dynamics},
  author = {Shi, Ziqiang and Liu, Rujie},
  year   = {2024},
  url    = {https://arxiv.org/abs/2404.12814}
}
""",
    ),
}


def of(name: str) -> Source:
    """The source of the diffusion of a recipe's `sde.name`; that of CLD for those without one of their own."""
    return _OTHERS.get(name, _CLD)
