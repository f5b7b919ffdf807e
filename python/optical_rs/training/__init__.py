"""Distillation: one engine, from bitext to a student."""

from .distillation import DEFAULT, Distillation
from .trained import Trained

__all__ = ["DEFAULT", "Distillation", "Trained"]
