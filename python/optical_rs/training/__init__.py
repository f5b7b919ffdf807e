"""Distillation: one engine, from bitext to a student; and the teacher before it."""

from .distillation import DEFAULT, Distillation
from .retriever import train_retriever
from .trained import Trained

__all__ = ["DEFAULT", "Distillation", "Trained", "train_retriever"]
