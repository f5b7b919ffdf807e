"""Search across languages from a little bitext.

:func:`distil` makes a student of a teacher and sentence pairs, and :func:`evaluate_student` measures it on a
collection; :func:`late_interaction` makes a teacher of any encoder, :func:`load_bitext` and :func:`load_collection`
read what both need. They need the extra ``train``. :class:`Index` searches documents that ``optical-rs index`` has
encoded, without torch; it needs the extra ``edge``.

Three nouns carry the package, and need numpy alone: :mod:`optical_rs.transport` (entropic optimal transport and the
alignment loss made of it), :mod:`optical_rs.similarity` (MaxSim over ragged token embeddings) and
:mod:`optical_rs.ranking` (trec_eval's measures, tests and fusion).
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _core
from .errors import ConvergenceWarning, InputError, require

if TYPE_CHECKING:
    from . import ranking, similarity, transport
    from .data import load_bitext, load_collection
    from .edge.search import Index
    from .models.late_interaction import late_interaction
    from .retrieval import evaluate_student
    from .training.distil import distil

__all__ = [
    "ConvergenceWarning",
    "Index",
    "InputError",
    "__version__",
    "build_info",
    "distil",
    "evaluate_student",
    "late_interaction",
    "load_bitext",
    "load_collection",
    "ranking",
    "set_num_threads",
    "set_simd_level",
    "similarity",
    "transport",
]


#: Where each name that is read on first use is defined: numpy and torch take longer to start than many a task.
_HOMES = {
    "Index": "edge.search",
    "distil": "training.distil",
    "evaluate_student": "retrieval",
    "late_interaction": "models",
    "load_bitext": "data",
    "load_collection": "data",
}
#: Those whose modules are made of sentence-transformers' classes: without the extra they cannot be imported to say so.
_OF_TRAIN = ("distil", "late_interaction")
_MODULES = ("ranking", "similarity", "transport")


def build_info() -> dict[str, Any]:
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
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in _OF_TRAIN:
        require("sentence_transformers", "train")
    if name in _HOMES:
        found = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


__version__: str = build_info()["version"]

if build_info()["profile"] == "debug":
    warnings.warn(
        "optical_rs was built without optimisation and is very slow; build it with "
        "`maturin develop --release`",
        stacklevel=2,
    )
