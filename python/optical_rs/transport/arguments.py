"""Checks and conversions that the numpy and torch front ends share."""

import math
import sys
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError

METHODS = ("auto", "linear", "log", "ipot")
GRADS = ("envelope", "implicit", "detach")


def is_tensor(x: Any) -> bool:
    """Whether ``x`` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


class Solver(NamedTuple):
    """The options of a solve, checked; in the order in which the native core takes them."""

    method: str
    max_iter: int
    tol: float
    reg_m: tuple[float, float]
    accelerate: bool


def solver(method: str, max_iter: int, tol: float, reg_m: Any, accelerate: bool, grad: str) -> Solver:
    """Options as given, or :class:`InputError` for one outside its range."""
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if grad not in GRADS:
        raise InputError(f"grad: expected one of {', '.join(GRADS)}, got {grad!r}")
    if int(max_iter) != max_iter or max_iter < 0:
        raise InputError(f"max_iter: expected an integer >= 0, got {max_iter!r}")
    if not (tol >= 0 and math.isfinite(tol)):
        raise InputError(f"tol: expected a finite number >= 0, got {tol!r}")
    sides = (math.inf, math.inf) if reg_m is None else reg_m
    if isinstance(sides, int | float):
        sides = (sides, sides)
    sides = tuple(math.inf if side is None else float(side) for side in sides)
    if len(sides) != 2 or not all(side > 0 for side in sides):
        raise InputError(
            f"reg_m: expected one number > 0, or one for rows and one for columns, got {reg_m!r}"
        )
    if method == "ipot" and min(sides) < math.inf:
        raise InputError("reg_m: expected None with method='ipot', which has hard marginals")
    return Solver(method, int(max_iter), float(tol), sides, bool(accelerate))


def check_ndim(name: str, x: Any, ndim: int, shape: str) -> None:
    """Raise :class:`InputError` unless ``x`` has ``ndim`` dimensions."""
    if x.ndim != ndim:
        raise InputError(f"{name}: expected an array of shape {shape}, got shape {tuple(x.shape)}")


def side(name: str, lengths: Any, mask: Any, batch: int, size: int) -> Any:
    """One description of a padded side from ``lengths`` or ``mask``: a list, a boolean array or None."""
    if lengths is not None and mask is not None:
        raise InputError(f"{name}_lengths, {name}_mask: expected at most one of them, got both")
    if lengths is not None:
        lengths = np.asarray(lengths)
        if lengths.shape != (batch,) or lengths.dtype.kind not in "iu":
            raise InputError(
                f"{name}_lengths: expected {batch} integers, got shape {lengths.shape} of {lengths.dtype}"
            )
        if (lengths < 0).any() or (lengths > size).any():
            raise InputError(f"{name}_lengths: expected lengths in 0..{size}, got {lengths.tolist()}")
        return lengths.tolist()
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != (batch, size):
            raise InputError(f"{name}_mask: expected shape {(batch, size)}, got {mask.shape}")
        # As bytes: a numpy bool may be any of them.
        return np.require(mask != 0, requirements=["C", "A"]).view(np.uint8)
    return None


def present(name: str, lengths: Any, mask: Any, batch: int, size: int) -> np.ndarray:
    """The real entries of a side as a boolean array (batch, size)."""
    given = side(name, lengths, mask, batch, size)
    if isinstance(given, list):
        return np.arange(size) < np.array(given)[:, None]
    return np.ones((batch, size), dtype=bool) if given is None else given.astype(bool)


def marginal(name: str, given: Any, batch: int, size: int, dtype: Any) -> np.ndarray | None:
    """A marginal (batch, size); one of shape (size,) is that of every problem."""
    if given is None:
        return None
    given = native(name, given, dtype)
    if given.ndim == 1 and given.shape == (size,):
        given = np.broadcast_to(given, (batch, size))
    check_ndim(name, given, 2, f"({batch}, {size}) or ({size},)")
    whole: np.ndarray = np.require(given, requirements=["C", "A"])
    return whole


def floats(name: str, x: Any) -> np.ndarray:
    """A contiguous float array: double precision and more becomes float64, everything else float32."""
    x = as_numpy(name, x)
    double = x.dtype.kind == "f" and x.dtype.itemsize >= 8
    return native(name, x, np.float64 if double else np.float32)


def native(name: str, x: Any, dtype: Any) -> np.ndarray:
    """``x`` in a native type, contiguous and aligned."""
    x = as_numpy(name, x)
    if x.dtype.kind not in "fiub":
        raise InputError(f"{name}: expected numbers, got dtype {x.dtype}")
    return np.require(x, dtype=dtype, requirements=["C", "A"])


def as_numpy(name: str, x: Any) -> np.ndarray:
    """``x`` as an array; without a copy where it speaks DLPack and is in this machine's memory."""
    if isinstance(x, np.ndarray) or not hasattr(x, "__dlpack__"):
        return np.asarray(x)
    try:
        return np.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{name}: expected an array in this machine's memory ({error})") from None
