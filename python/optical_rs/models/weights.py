"""What is done to a model's weights: copied, frozen, interpolated, adapted."""

import copy
import re
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder
from torch import nn

from ..errors import InputError, require


def student_of(teacher: MultiVectorEncoder) -> MultiVectorEncoder:
    """A trainable copy of the teacher: a student that starts as its own zero-shot model."""
    return copy.deepcopy(teacher)


def interpolate(student: MultiVectorEncoder, start: MultiVectorEncoder, share: float) -> None:
    """Move a trained student back towards what it started from, in place.

    ::

        θ ← θ_start + share · (θ − θ_start)

    Interpolated weights keep most of what was learned and forget much less of what was known: WiSE-FT [1]_.

    Parameters
    ----------
    student : MultiVectorEncoder
        After training.
    start : MultiVectorEncoder
        The same model before it.
    share : float
        Of the way that training went: 0 is the start, 1 the student as it is.

    Raises
    ------
    InputError
        A share outside 0..1, or models of different shapes.

    References
    ----------
    .. [1] M. Wortsman et al. Robust fine-tuning of zero-shot models. CVPR 2022.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share: expected a number in 0..1, got {share}")
    before = dict(start.named_parameters())
    now = dict(student.named_parameters())
    if before.keys() != now.keys() or any(p.shape != before[name].shape for name, p in now.items()):
        raise InputError("start: expected a model of the student's own shape")
    with torch.no_grad():
        for name, parameter in now.items():
            start_value = before[name].to(parameter)
            # What did not move, such as a frozen table of a third of a gigabyte, stays as it is.
            if not torch.equal(parameter, start_value):
                parameter.lerp_(start_value, 1 - share)


def set_dropout(model: MultiVectorEncoder, p: float) -> None:
    """Set the probability of every dropout layer.

    Matching a fixed target from a few thousand pairs gains nothing from noise, and drawing it costs
    a tenth of a step on a CPU.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p


def use_plain_attention(model: MultiVectorEncoder) -> None:
    """Attention by plain matrix products: on a CPU its backward pass is several times as fast as that
    of the fused kernel at the lengths of sentences."""
    encoder: Any = model[0].auto_model
    if hasattr(encoder, "set_attn_implementation"):
        encoder.set_attn_implementation("eager")


def freeze_word_embeddings(model: MultiVectorEncoder) -> None:
    """Keep the word embedding table fixed.

    A multilingual table has some 250,000 rows, four fifths of a small model's parameters; a batch
    touches a few hundred of them, but its optimiser step goes through all.
    """
    model[0].auto_model.get_input_embeddings().requires_grad_(False)


def freeze_layers(model: MultiVectorEncoder, count: int) -> None:
    """Keep the ``count`` lowest layers of the encoder fixed.

    Raises
    ------
    InputError
        If the encoder has fewer.
    """
    numbers = set()
    for name, parameter in model[0].auto_model.named_parameters():
        found = re.search(r"(?:^|\.)layers?\.(\d+)\.", name)
        if found:
            numbers.add(int(found[1]))
            if int(found[1]) < count:
                parameter.requires_grad_(False)
    if not 0 <= count <= len(numbers):
        raise InputError(f"freeze_layers: expected 0..{len(numbers)}, got {count}")


def keep_layers(model: MultiVectorEncoder, count: int) -> None:
    """Leave ``count`` evenly spaced layers of the encoder, the first and the last among them, in place.

    Embeddings and head stay as they are. What remains has to be trained: see
    :func:`~optical_rs.training.layers.shorten`.

    Parameters
    ----------
    model : MultiVectorEncoder
    count : int
        From 2 to the number of layers that the encoder has.

    Raises
    ------
    InputError
        Another count, or an encoder whose layers are not found.
    """
    encoder: Any = model[0].auto_model
    config = encoder.config
    have = getattr(config, "num_hidden_layers", 0)
    # Some encoders keep other lists of as many modules inside a layer; the outermost is the layers'.
    found = next(
        (
            (name, part)
            for name, part in encoder.named_modules()
            if isinstance(part, nn.ModuleList) and len(part) == have
        ),
        None,
    )
    if found is None:
        raise InputError(f"layers: found none in the encoder, a {type(encoder).__name__}")
    if have < 2:
        raise InputError("layers: the encoder has one layer alone")
    if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= have:
        raise InputError(f"layers: expected a number in 2..{have}, got {count!r}")
    places = [round(i * (have - 1) / (count - 1)) for i in range(count)]
    name, layers = found
    parent, _, own = name.rpartition(".")
    setattr(encoder.get_submodule(parent), own, nn.ModuleList(layers[i] for i in places))
    config.num_hidden_layers = count
    if kinds := getattr(config, "layer_types", None):
        config.layer_types = [kinds[i] for i in places]


def add_adapters(model: MultiVectorEncoder, rank: int) -> None:
    """Train low-rank additions (LoRA) to the encoder's matrices instead of the matrices, and the head as
    before; :func:`merge_adapters` makes a plain model of it again.

    Parameters
    ----------
    model : MultiVectorEncoder
    rank : int
        Of the additions.

    Raises
    ------
    InputError
        A rank below 1, or peft is not installed.

    References
    ----------
    E. Hu et al. LoRA: low-rank adaptation of large language models. ICLR 2022.
    """
    if rank < 1:
        raise InputError(f"adapter_rank: expected at least 1, got {rank}")
    peft = require("peft", "train")
    encoder = model[0].auto_model
    linear = {
        name for name, m in encoder.named_modules() if isinstance(m, nn.Linear) and "pooler" not in name
    }
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=sorted(linear))
    peft.inject_adapter_in_model(config, encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_("lora_" in name)


def merge_adapters(model: MultiVectorEncoder) -> None:
    """Add what adapters have learned to the matrices, and take the adapters out."""
    tuner = require("peft", "train").tuners.tuners_utils.BaseTunerLayer
    encoder = model[0].auto_model
    for name, module in list(encoder.named_modules()):
        if isinstance(module, tuner):
            module.merge()
            base = module.get_base_layer()
            parent, _, own = name.rpartition(".")
            setattr(encoder.get_submodule(parent) if parent else encoder, own, base)
