"""Search across languages from a little bitext.

Three nouns carry the package: :mod:`optical_rs.transport` (entropic optimal transport and the
alignment loss made of it), :mod:`optical_rs.similarity` (MaxSim over ragged token embeddings) and
:mod:`optical_rs.ranking` (trec_eval's measures). They need numpy alone. Training, models and data
live in :mod:`optical_rs.losses`, :mod:`optical_rs.models`, :mod:`optical_rs.data`,
:mod:`optical_rs.train` and :mod:`optical_rs.retrieval`, and need the extra ``train``.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _core
from .errors import ConvergenceWarning, InputError

if TYPE_CHECKING:
    from . import ranking, similarity, transport

__all__ = [
    "ConvergenceWarning",
    "InputError",
    "__version__",
    "build_info",
    "ranking",
    "set_num_threads",
    "set_simd_level",
    "similarity",
    "transport",
]


def build_info() -> dict:
    """How the native core was built and what it runs with.

    Returns
    -------
    dict
        ``version``; ``profile`` (``"release"`` or ``"debug"``); ``target`` (CPU architecture);
        ``simd`` (the instruction set in use) and ``simd_supported``; ``threads``.

    Examples
    --------
    >>> import optical_rs
    >>> sorted(optical_rs.build_info())
    ['profile', 'simd', 'simd_supported', 'target', 'threads', 'version']
    """
    return _core.build_info()


def set_num_threads(n: int) -> None:
    """Use ``n`` threads in the native core.

    0, the default, means as many as the environment variable ``OPTICAL_RS_NUM_THREADS`` says at import, or one per
    available core.

    Results do not depend on it, bit for bit.
    """
    if n < 0:
        raise InputError(f"n: expected a number of threads >= 0, got {n}")
    _core.set_num_threads(n)


def set_simd_level(level: str) -> None:
    """Run kernels with ``"portable"``, ``"avx2"`` or ``"avx512"`` instructions, for comparisons.

    Raises
    ------
    InputError
        If the level is unknown or this machine lacks it.
    """
    _core.set_simd_level(level)


def __getattr__(name: str) -> Any:
    # Read when they are needed: numpy takes longer to start than most files take to evaluate.
    if name in ("ranking", "similarity", "transport"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__: str = build_info()["version"]

if build_info()["profile"] == "debug":
    warnings.warn(
        "optical_rs was built without optimisation and is very slow; build it with "
        "`maturin develop --release`",
        stacklevel=2,
    )
