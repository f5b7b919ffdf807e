"""Distillation: one engine, from sentence pairs to a student.

``distil`` is the one call of Python; ``distillation`` the engine behind it and behind every command; ``trained`` what
comes out. Around it: ``teacher`` (models to start from), ``retriever`` and ``negatives`` (a teacher that is trained),
``layers`` (one with fewer layers), ``mixture`` and ``batches`` (which pairs, in which order), ``stages`` and ``anchor``
(domain adaptation), ``hybrid`` (contrastive training across languages), ``dev`` (development queries), ``fit`` and
``arguments`` (one run of the trainer), ``processes`` (several of them, on one machine or more).
"""

from .anchor import Anchor
from .distillation import DEFAULT, Distillation
from .layers import fewer_layers
from .retriever import train_retriever
from .trained import Trained

__all__ = ["DEFAULT", "Anchor", "Distillation", "Trained", "fewer_layers", "train_retriever"]
