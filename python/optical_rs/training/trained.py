"""A student after training, and what is written of it."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder

from .. import fingerprint
from ..files import write_json
from ..models import RECORD, interpolate, write_card


@dataclasses.dataclass
class Trained:
    """A student after training, at any share of the way from its start.

    Attributes
    ----------
    student : MultiVectorEncoder
    start : MultiVectorEncoder
        What it was before.
    record : dict
        ``pairs``, ``steps``, ``train_seconds``, ``pairs_per_second``, and ``dev_map`` where dev queries chose.
    teacher : MultiVectorEncoder or None
        None where both sides were trained: the student is its own partner.
    teacher_fingerprint : str or None
    side : str
    """

    student: MultiVectorEncoder
    start: MultiVectorEncoder
    record: dict[str, Any]
    teacher: MultiVectorEncoder | None
    teacher_fingerprint: str | None
    side: str

    def __post_init__(self) -> None:
        before = dict(self.start.named_parameters())
        self._after = {
            name: p.detach().clone()
            for name, p in self.student.named_parameters()
            if not torch.equal(p, before[name].to(p))
        }

    def at(self, share: float) -> MultiVectorEncoder:
        """The student with weights at a share of the way (1: as trained); the same object each time."""
        with torch.no_grad():
            for name, parameter in self.student.named_parameters():
                if name in self._after:
                    parameter.copy_(self._after[name])
        interpolate(self.student, self.start, share)
        self.student.optical_record = {
            **self.record,
            "side": self.side,
        }
        if self.teacher is not None:
            self.student.optical_record |= {
                "teacher": self.teacher,
                "teacher_fingerprint": self.teacher_fingerprint,
            }
        return self.student


def save_student(
    student: MultiVectorEncoder, folder: Path, trained: Trained, teacher: str, about: Mapping[str, Any]
) -> None:
    """Write a checkpoint, its card and, last, the record of what made it.

    ``about`` has what :func:`~optical_rs.models.card.origin` says, and ``system`` (the options of training).
    """
    folder.mkdir(parents=True, exist_ok=True)
    student.save_pretrained(str(folder))
    partner: dict[str, Any] = {}
    if trained.teacher is not None:
        if not teacher:
            teacher = str(folder / "teacher")
            trained.teacher.save_pretrained(teacher)
        local = os.path.isdir(teacher)
        partner = {
            "teacher": os.path.relpath(Path(teacher).resolve(), folder.resolve()) if local else teacher,
            "teacher_fingerprint": trained.teacher_fingerprint,
        }
    content = {
        **partner,
        "fingerprint": fingerprint.of_model(student),
        "side": trained.side,
        **about,
        **trained.record,
    }
    # The record says that all is there.
    write_card(folder, content)
    write_json(folder / RECORD, content)
