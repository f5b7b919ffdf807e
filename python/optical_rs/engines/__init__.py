"""First stages of search from existing engines, a file each."""

from .fast_plaid import fast_plaid

__all__ = ["fast_plaid"]
