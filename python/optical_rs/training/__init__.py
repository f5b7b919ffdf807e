"""Distillation: one engine, from bitext to a student; and the teacher before it."""

from .anchor import Anchor
from .distillation import DEFAULT, Distillation
from .retriever import train_retriever
from .trained import Trained

__all__ = ["DEFAULT", "Anchor", "Distillation", "Trained", "train_retriever"]
