"""Teachers and students: late-interaction models made from any encoder."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch import Tensor, nn

from .data.packaged_model import NAME as PACKAGED
from .data.packaged_model import packaged_model
from .errors import InputError, closest

#: Prompts that the E5 family was trained with.
E5_PROMPTS = {"query": "query: ", "document": "passage: "}


def late_interaction(
    encoder: Any,
    dim: int = 128,
    *,
    fit_on: Sequence[str] | None = None,
    match: MultiVectorEncoder | None = None,
    prompts: dict[str, str] | None = None,
    max_seq_length: int | None = None,
    device: str | None = None,
) -> MultiVectorEncoder:
    """A late-interaction model from any encoder, with a projection that needs no training.

    Tokens of a plain encoder all point the same way: cosines of multilingual-e5 lie in .7–1, where
    neither MaxSim nor transport sees anything. The head computed here removes the mean of the tokens
    of ``fit_on``, keeps their ``dim`` principal directions and divides each by the square root of
    its standard deviation (half whitening)::

        W = diag(σ^-1/2) · U_dimᵀ,   bias = −W · mean

    With ``match`` it is instead the ridge regression that takes this encoder's mean tokens of each
    text to those of another model, so that a different encoder starts out in its teacher's space.

    Parameters
    ----------
    encoder : str, path, SentenceTransformer or MultiVectorEncoder
        A Hugging Face model (folder or hub id), ``"packaged:multilingual-e5-small"``, or a loaded
        model whose Transformer module is taken (and shared).
    dim : int
        Dimension of the token vectors; at most that of the encoder (that of ``match``, if given).
    fit_on : sequence of str
        English texts, some hundreds at least. Without them the head is random and must be trained.
    match : MultiVectorEncoder, optional
        The teacher whose space to start in.
    prompts : dict, optional
        ``{"query": ..., "document": ...}``, put before the texts. By default those of the encoder,
        or E5's for the packaged model.
    max_seq_length : int, optional
        Longest input in tokens.
    device : str, optional
        As in sentence-transformers.

    Returns
    -------
    MultiVectorEncoder
        Transformer → Dense (``dim``, with bias) → MultiVectorMask → Normalize: a standard checkpoint
        of sentence-transformers when saved.

    Raises
    ------
    InputError
        No such model, a ``dim`` that does not fit, or too few texts to fit on.
    """
    transformer, found = _transformer(encoder, device)
    if max_seq_length is not None:
        transformer.max_seq_length = max_seq_length
    hidden = transformer.get_embedding_dimension()
    if match is not None:
        dim = match.get_embedding_dimension()
    elif not 1 <= dim <= hidden:
        raise InputError(f"dim: expected 1..{hidden}, the dimension of the encoder, got {dim}")
    head = Dense(
        in_features=hidden,
        out_features=dim,
        bias=True,
        activation_function=nn.Identity(),
        module_input_name="token_embeddings",
    )
    model = MultiVectorEncoder(
        modules=[transformer, head, MultiVectorMask(), Normalize(module_input_name="token_embeddings")],
        prompts=prompts if prompts is not None else found,
        device=device,
    )
    if fit_on is not None:
        texts = list(fit_on)
        weight, bias = _regression_head(model, match, texts) if match else _whitening_head(model, dim, texts)
        with torch.no_grad():
            head.linear.weight.copy_(torch.from_numpy(weight))
            head.linear.bias.copy_(torch.from_numpy(bias))
    return model


def _transformer(encoder: Any, device: str | None) -> tuple[Transformer, dict[str, str] | None]:
    """The Transformer module of an encoder, and its prompts."""
    if isinstance(encoder, nn.Module):
        module = next((m for m in encoder.modules() if isinstance(m, Transformer)), None)
        if module is None:
            raise InputError(f"encoder: found no Transformer module in a {type(encoder).__name__}")
        return module, {k: v for k, v in getattr(encoder, "prompts", {}).items() if v} or None
    if str(encoder) == PACKAGED:
        return _zero_pooler(Transformer(str(packaged_model()))), E5_PROMPTS
    path = check_path(str(encoder), "encoder")
    if Path(path, "modules.json").exists():
        return _transformer(SentenceTransformer(path, device=device), device)
    return _zero_pooler(Transformer(path)), None


def _zero_pooler(module: nn.Module) -> Any:
    # BERT's sentence-level pooler takes no part in late interaction. Checkpoints without it load with
    # random weights there; zeros instead make the same training end in the same files.
    for name, parameter in module.named_parameters():
        if ".pooler." in f".{name}":
            nn.init.zeros_(parameter)
            parameter.requires_grad_(False)
    return module


def check_path(path: str, argument: str) -> str:
    """A local folder must hold a model; anything that is no path is left to the model hub."""
    if path.startswith("packaged:"):
        raise InputError(f"{argument}: unknown packaged model '{path}'{closest(path, [PACKAGED])}")
    looks_local = os.path.isabs(path) or path.startswith((".", "~")) or path.count("/") != 1
    if os.path.isdir(path):
        if not any(Path(path, name).exists() for name in ("modules.json", "config.json")):
            raise InputError(f"{argument}: {path} holds no model (neither modules.json nor config.json)")
    elif looks_local and ("/" in path or path.startswith(".")):
        raise InputError(f"{argument}: no such model folder: {path}")
    return path


def load_model(path: Any, *, device: str | None = None, argument: str = "model") -> MultiVectorEncoder:
    """A late-interaction model from a checkpoint: sentence-transformers', PyLate's or ColBERT's.

    Raises
    ------
    InputError
        If a folder holds no model, or the hub has none of that name.
    """
    path = check_path(str(path), argument)
    try:
        return _zero_pooler(MultiVectorEncoder(path, device=device))
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{argument}: cannot load '{path}': {reason}") from None


def student_of(teacher: MultiVectorEncoder) -> MultiVectorEncoder:
    """A trainable copy of the teacher: a student that starts as its own zero-shot model."""
    return copy.deepcopy(teacher)


def interpolate(student: MultiVectorEncoder, start: MultiVectorEncoder, share: float) -> None:
    """Move a trained student back towards what it started from, in place.

    ::

        θ ← θ_start + share · (θ − θ_start)

    Weights half way keep most of what was learned and forget much less of what was known: WiSE-FT [1]_.

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


def _hidden_tokens(model: MultiVectorEncoder, texts: list[str], batch_size: int = 64) -> list[np.ndarray]:
    """Token vectors before the head, per text, in the order of the texts; both roles' prompts mixed."""
    transformer: Any = model[0]
    order = np.argsort([len(t) for t in texts], kind="stable")
    out: list[Any] = [None] * len(texts)
    transformer.eval()
    for number, start in enumerate(range(0, len(texts), batch_size)):
        batch = order[start : start + batch_size]
        # The head serves queries and documents alike, so it is fitted on both.
        task = ("query", "document")[number % 2]
        features = model.preprocess([texts[i] for i in batch], prompt=model.prompts.get(task), task=task)
        features = {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in features.items()}
        with torch.inference_mode():
            features = transformer(features)
        masks = features["attention_mask"].bool()
        for i, tokens, mask in zip(batch, features["token_embeddings"], masks, strict=True):
            out[i] = tokens[mask].float().cpu().numpy()
    return out


def _whitening_head(model: MultiVectorEncoder, dim: int, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.concatenate(_hidden_tokens(model, texts)).astype(np.float64)
    if len(tokens) < 4 * dim:
        raise InputError(
            f"fit_on: expected at least {4 * dim} tokens to fit {dim} directions, got {len(tokens)}"
        )
    mean = tokens.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(tokens, rowvar=False))
    values, vectors = values[::-1][:dim], vectors[:, ::-1][:, :dim]
    # An eigenvector's sign is arbitrary; fixing it makes the head the same on every machine.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(dim)])
    weight = vectors.T / np.maximum(values, 1e-12)[:, None] ** 0.25
    return weight.astype(np.float32), (-weight @ mean).astype(np.float32)


def _regression_head(
    model: MultiVectorEncoder, match: MultiVectorEncoder, texts: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    own = np.stack([t.mean(axis=0) for t in _hidden_tokens(model, texts)]).astype(np.float64)
    encoded = match.encode_query(texts, convert_to_numpy=True, show_progress_bar=False)
    target = np.stack([t.mean(axis=0) for t in encoded]).astype(np.float64)
    if len(texts) < 64:
        raise InputError(f"fit_on: expected at least 64 texts to match a teacher, got {len(texts)}")
    mean, goal = own.mean(axis=0), target.mean(axis=0)
    centred = own - mean
    gram = centred.T @ centred
    ridge = 1e-2 * np.trace(gram) / len(gram)
    weight = np.linalg.solve(gram + ridge * np.eye(len(gram)), centred.T @ (target - goal)).T
    return weight.astype(np.float32), (goal - weight @ mean).astype(np.float32)
