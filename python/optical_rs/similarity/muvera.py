"""MUVERA: one vector of a text, whose dot products approximate MaxSim."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from .. import _core
from ..errors import InputError


@dataclasses.dataclass(frozen=True)
class Muvera:
    """A first stage of search with one vector per text: fixed-dimensional encodings [1]_.

    Random projections divide the space of tokens into 2^``k_sim`` parts. A query's vector has, for each part, the sum of
    its tokens there; a document's has their mean, or where it has none the token that is nearest by Hamming distance.
    Each is sketched to ``dim_proj`` numbers (each number is added to a random one, with a random sign), and all is
    repeated ``r_reps`` times. The same settings give the same bits on every machine.

    Parameters
    ----------
    k_sim : int
        Projections, 1 to 16.
    dim_proj : int
        Numbers of each part; those of a token, without a sketch, if it is not smaller.
    r_reps : int
        Repetitions. A vector has ``r_reps`` · 2^``k_sim`` · ``dim_proj`` numbers.
    seed : int
        Of all random numbers.

    Raises
    ------
    InputError
        A setting that is no integer, or beyond these limits.

    References
    ----------
    .. [1] L. Dhulipala et al. MUVERA: multi-vector retrieval via fixed dimensional encodings. NeurIPS 2024,
       arXiv 2405.19504.

    Examples
    --------
    >>> import numpy as np
    >>> from optical_rs.similarity import Muvera
    >>> method = Muvera(k_sim=2, dim_proj=8, r_reps=3)
    >>> [x.shape for x in method.documents([np.eye(16, dtype=np.float32), np.zeros((0, 16), np.float32)])]
    [(1, 96), (0, 96)]
    """

    k_sim: int = 4
    dim_proj: int = 16
    r_reps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            low, high = (0 if name == "seed" else 1), (16 if name == "k_sim" else 2**32 - 1)
            if type(value) is not int or not low <= value <= high:
                raise InputError(f"{name}: expected an integer from {low} to {high}, got {value!r}")

    def dimension(self, dim: int) -> int:
        """Numbers of a vector, for texts of dimension ``dim``."""
        return _core.muvera_dimension(dim, self.k_sim, self.dim_proj, self.r_reps, self.seed)

    def documents(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Each text's vector, (1, numbers) float32; (0, numbers) for a text without tokens."""
        return self._encoded(texts, query=False)

    def queries(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Each query's vector."""
        return self._encoded(texts, query=True)

    def _encoded(self, texts: Sequence[np.ndarray], query: bool) -> list[np.ndarray]:
        arrays = [np.require(text, np.float32, ("C", "A")) for text in texts]
        found = _core.muvera(
            _core.Texts("texts", arrays, None), query, self.k_sim, self.dim_proj, self.r_reps, self.seed
        )
        return [row[None] if len(text) else row[None][:0] for row, text in zip(found, arrays, strict=True)]
