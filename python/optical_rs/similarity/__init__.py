"""Late-interaction similarity: MaxSim, exact search, and the container of token embeddings."""

from .maxsim import Documents, maxsim, search
from .pooling import pool
from .store import TokenStore

__all__ = ["Documents", "TokenStore", "maxsim", "pool", "search"]
