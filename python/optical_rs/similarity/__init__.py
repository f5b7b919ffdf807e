"""Late-interaction similarity: MaxSim, exact and two-stage search, and the container of token embeddings."""

from .coarse import make_coarse, pool
from .maxsim import Documents, maxsim, search
from .mean import Mean
from .muvera import Muvera
from .pooling import Pooling
from .store import TokenStore

__all__ = [
    "Documents",
    "Mean",
    "Muvera",
    "Pooling",
    "TokenStore",
    "make_coarse",
    "maxsim",
    "pool",
    "search",
]
