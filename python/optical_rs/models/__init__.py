"""Teachers and students: late-interaction models made from any encoder."""

from ..record import RECORD, record_of
from .card import origin, write_card
from .hub import push_to_hub
from .late_interaction import late_interaction
from .loading import check_path, is_late_interaction, load_model, record_folder
from .packaged import E5_SMALL, PACKAGED
from .pooled import pooled_encoder
from .weights import (
    add_adapters,
    freeze_layers,
    freeze_word_embeddings,
    interpolate,
    keep_layers,
    merge_adapters,
    set_dropout,
    student_of,
    use_plain_attention,
)

__all__ = [
    "E5_SMALL",
    "PACKAGED",
    "RECORD",
    "add_adapters",
    "check_path",
    "freeze_layers",
    "freeze_word_embeddings",
    "interpolate",
    "is_late_interaction",
    "keep_layers",
    "late_interaction",
    "load_model",
    "merge_adapters",
    "origin",
    "pooled_encoder",
    "push_to_hub",
    "record_folder",
    "record_of",
    "set_dropout",
    "student_of",
    "use_plain_attention",
    "write_card",
]
