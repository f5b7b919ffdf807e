from collections.abc import Callable
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Aligned",
    "Measured",
    "Places",
    "Reports",
    "Solved",
    "Texts",
    "align_batch",
    "build_info",
    "evaluate",
    "implicit_gradient",
    "maxsim",
    "maxsim_gradient",
    "maxsim_matches",
    "multiply_adds_per_second",
    "muvera",
    "muvera_dimension",
    "quantise",
    "read_qrels",
    "read_run",
    "run_tag",
    "search",
    "set_num_threads",
    "set_simd_level",
    "solve_batch",
]

_Side = list[int] | NDArray[np.uint8] | None
_Matrix = NDArray[Any] | None
_Tokens = NDArray[Any] | tuple[NDArray[np.int8], NDArray[np.float32]]

class _Solver(Protocol):
    @property
    def method(self) -> str: ...
    @property
    def max_iter(self) -> int: ...
    @property
    def tol(self) -> float: ...
    @property
    def reg_m(self) -> tuple[float, float]: ...
    @property
    def accelerate(self) -> bool: ...

@final
class Reports:
    @property
    def value(self) -> NDArray[np.float64]: ...
    @property
    def value_linear(self) -> NDArray[np.float64]: ...
    @property
    def duality_gap(self) -> NDArray[np.float64]: ...
    @property
    def marginal_error(self) -> NDArray[np.float64]: ...
    @property
    def reg(self) -> NDArray[np.float64]: ...
    @property
    def n_iter(self) -> NDArray[np.int64]: ...
    @property
    def converged(self) -> NDArray[np.bool_]: ...
    @property
    def status(self) -> list[str]: ...

@final
class Solved:
    @property
    def plan(self) -> NDArray[Any] | None: ...
    @property
    def f(self) -> NDArray[Any]: ...
    @property
    def g(self) -> NDArray[Any]: ...
    @property
    def reports(self) -> Reports: ...

@final
class Aligned:
    @property
    def grad_x(self) -> NDArray[Any] | None: ...
    @property
    def grad_y(self) -> NDArray[Any] | None: ...
    @property
    def reports(self) -> Reports: ...

def build_info() -> dict[str, Any]: ...
def set_num_threads(n: int) -> None: ...
def set_simd_level(level: str) -> None: ...
def multiply_adds_per_second() -> float: ...
def solve_batch(
    cost: NDArray[Any],
    reg: list[float],
    a: _Matrix,
    b: _Matrix,
    rows: _Side,
    cols: _Side,
    start: _Matrix,
    solver: _Solver,
    want_plan: bool,
) -> Solved: ...
def implicit_gradient(
    plan: NDArray[Any], cost: NDArray[Any], reg: list[float], reg_m: tuple[float, float]
) -> NDArray[Any]: ...
def align_batch(
    x: NDArray[Any],
    y: NDArray[Any],
    a: _Matrix,
    b: _Matrix,
    rows: _Side,
    cols: _Side,
    reg: float,
    relative: bool,
    implicit: bool,
    solver: _Solver,
    want_x: bool,
    want_y: bool,
) -> Aligned: ...

@final
class Texts:
    def __new__(
        cls, name: str, tokens: _Tokens | list[NDArray[np.float32]], offsets: NDArray[np.int64] | None
    ) -> Texts: ...
    def __len__(self) -> int: ...
    @property
    def dim(self) -> int: ...

@final
class Places:
    def __new__(cls, places: NDArray[np.int64]) -> Places: ...
    def __len__(self) -> int: ...

def maxsim(queries: Texts, documents: Texts) -> NDArray[np.float32]: ...
def search(
    queries: Texts,
    documents: Texts,
    places: Places,
    k: int,
    numbers: list[int] | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]: ...
def maxsim_matches(
    queries: NDArray[np.float32],
    query_offsets: NDArray[np.int64],
    documents: NDArray[np.float32],
    document_offsets: NDArray[np.int64],
    own: int | None,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]: ...
def maxsim_gradient(
    queries: NDArray[np.float32],
    query_offsets: NDArray[np.int64],
    documents: NDArray[np.float32],
    document_offsets: NDArray[np.int64],
    matched: NDArray[np.int32],
    weights: NDArray[np.float32],
    own: int | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
def muvera_dimension(dim: int, k_sim: int, dim_proj: int, r_reps: int, seed: int) -> int: ...
def muvera(
    texts: Texts, query: bool, k_sim: int, dim_proj: int, r_reps: int, seed: int
) -> NDArray[np.float32]: ...
def quantise(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]: ...

@final
class Measured:
    topics: list[Any]
    retrieved: list[bool]
    missing: list[Any]
    unjudged: list[Any]
    means: list[float]
    summaries: list[str]
    values: bytes
    strings: list[str]

def evaluate(
    qrels: Any,
    run: Any,
    measures: list[str],
    *,
    relevance_level: int = 1,
    complete: bool = False,
    judged_only: bool = False,
    max_documents: int | None = None,
    collection_size: int = 0,
    compat: int = 9,
    format: str = "qrels",
    strings: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Measured: ...
def read_qrels(qrels: str | tuple[str, bytes]) -> dict[str, dict[str, int]]: ...
def read_run(run: str | tuple[str, bytes]) -> dict[str, dict[str, float]]: ...
def run_tag(run: str | tuple[str, bytes]) -> bytes: ...
