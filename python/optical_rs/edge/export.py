"""``export``: a trained model as a small folder that needs no torch."""

import copy
import json
import logging
import lzma
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import load_collection
from ..errors import InputError, closest, require
from ..files import lines_of, named
from ..fingerprint import identity_of, of_files, of_model
from .encoder import COSTLY, FORMAT, MODELS, UNTRIMMED, VERSION, Encoder, sealed

#: Text that the check encodes besides what the vocabulary was made for.
SAMPLE = (
    "The quick brown fox jumps over the lazy dog.",
    "Mvula inagwa dzulo ku Lilongwe, koma lero kuli dzuwa.",
    "Ọjọ́ dára lónìí; a ó lọ sí ọjà.",
    "शाळा उद्या सकाळी दहा वाजता सुरू होईल.",
    "À quelle heure ouvre la bibliothèque ? 8 h 30 !",
)


def export(
    model: Any,
    out: str | Path,
    *,
    precisions: Sequence[str] = ("int8",),
    vocabulary: Sequence[str] | None = None,
    teacher: Any = None,
) -> dict[str, Any]:
    """Write a model for :class:`~optical_rs.edge.Encoder`, and check that both agree.

    Parameters
    ----------
    model : path, hub id or MultiVectorEncoder
        A late-interaction model: Transformer, Dense, mask and Normalize, as
        :func:`~optical_rs.models.late_interaction` makes it.
    out : path
        A directory that does not exist or is empty.
    precisions : sequence of {"int8", "float32"}
        Weights to write. ``"int8"`` has the matrices in bytes, with a scale for each output channel, and
        the word embeddings with a scale for each word; activations become bytes with a scale for each token.
    vocabulary : sequence of str, optional
        Texts that the model will meet: pieces that they do not need are left out, which makes the word
        embeddings small. These texts keep their tokens; others are cut into smaller pieces, and a warning says
        if that would cost much for new texts of the same kind.
    teacher : path, hub id or MultiVectorEncoder, optional
        What a student learnt from, where its checkpoint does not say it.

    Returns
    -------
    dict
        What ``edge.json`` says, with ``agreement``: the smallest and the mean cosine between the token
        embeddings of the export and of the model, for each precision; and with ``vocabulary_cost``: how many times
        the tokens new texts of the kind of ``vocabulary`` take (every tenth of them, measured without it).

    Raises
    ------
    InputError
        A model of another form, a precision that is unknown, a directory that is in use, or float32
        embeddings that are off (cosine below .999).
    """
    torch = require("torch", "train")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "export")
    from tokenizers import Tokenizer

    from .quantise import quantise
    from .vocabulary import trim

    for precision in precisions:
        if precision not in MODELS:
            raise InputError(f"precisions: unknown precision '{precision}'{closest(precision, MODELS)}")
    if not precisions:
        raise InputError("precisions: expected at least one")
    out = check_out(out)
    model, source, record = loaded(model)
    if teacher is not None:
        record = {**record, "teacher_fingerprint": of_model(loaded(teacher)[0])}
    transformer, dense, mask = parts(model)
    whole = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    tokenizer, old = whole, None
    prompts = {role: model.prompts.get(role) or "" for role in ("query", "document")}
    cost = None
    if vocabulary is not None:
        sample = [prompt + text for text in SAMPLE for prompt in prompts.values()]
        texts = [prompt + text for text in vocabulary for prompt in prompts.values()]
        tokenizer, old = trim(whole, [*sample, *texts])
        cost = _cost_of_new_texts(whole, sample, list(vocabulary), prompts)
    pad = model.tokenizer.pad_token_id or 0
    config: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": source,
        **identity_of(model, record),
        "dim": int(dense.linear.out_features),
        "max_tokens": int(model.get_max_seq_length() or 512),
        "prompts": prompts,
        "pad_id": pad if old is None else old.index(pad),
        "skip": _skipped(model, mask, old),
        "vocabulary": tokenizer.get_vocab_size(),
        "precisions": list(precisions),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        tokenizer.save(str(folder / "tokenizer.json"))
        if cost is not None:
            (folder / UNTRIMMED).write_bytes(lzma.compress(_plain(whole).encode()))
            config["vocabulary_cost"] = round(cost, 3)
        _write_onnx(
            torch, _network(torch, transformer.auto_model, dense.linear, old), folder / MODELS["float32"]
        )
        if "int8" in precisions:
            quantise(folder / MODELS["float32"], folder / MODELS["int8"])
        config["files"] = {file.name: of_files(file) for file in sorted(folder.iterdir())}
        every = sealed({**config, "precisions": list(dict.fromkeys(["float32", *precisions]))})
        (folder / "edge.json").write_text(json.dumps(every), encoding="utf-8")
        check = [*SAMPLE, *(vocabulary or ())[:100]]
        agreement = {p: _agreement(model, Encoder(folder, precision=p), check) for p in every["precisions"]}
        if agreement["float32"]["smallest"] < 0.999:
            raise InputError(
                f"model: exported embeddings are off: smallest cosine {agreement['float32']['smallest']:.4f}"
            )
        if "float32" not in precisions:
            (folder / MODELS["float32"]).unlink()
            del config["files"][MODELS["float32"]]
        config["agreement"] = {precision: agreement[precision] for precision in precisions}
        config = sealed(config)
        (folder / "edge.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        shutil.move(folder, out)
    if cost is not None and cost > COSTLY:
        warnings.warn(
            f"vocabulary: new texts like these take {cost:.1f} × the tokens of the whole vocabulary; "
            "name more of what the model will meet",
            stacklevel=2,
        )
    return config


def _cost_of_new_texts(whole: Any, sample: list[str], texts: list[str], prompts: dict[str, str]) -> float:
    """How many times the tokens texts take whose pieces were not asked for: every tenth, without them."""
    from .vocabulary import token_cost, trim

    new = texts[::10][:1000]
    others = [p + text for i, text in enumerate(texts) if i % 10 or i >= 10_000 for p in prompts.values()]
    trimmed, _ = trim(whole, [*sample, *others])
    return token_cost(trimmed, whole, new)[1]


def _plain(tokenizer: Any) -> str:
    """A tokenizer as JSON without blanks."""
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))


def check_out(out: str | Path) -> Path:
    """A folder to write to, which must not hold anything."""
    out = named(out, "out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"output: {out} is not empty")
    return out


def loaded(model: Any) -> tuple[Any, str, dict[str, Any]]:
    """A model, loaded if it is a path or hub id, what to call it, and what its checkpoint says of how it was made."""
    from ..models import load_model
    from ..record import record_of

    if isinstance(model, str | os.PathLike):
        return load_model(model, device="cpu"), str(model), record_of(model)
    if not hasattr(model, "tokenizer"):
        raise InputError(f"model: expected a path, hub id or MultiVectorEncoder, got {model!r:.100}")
    return model, type(model).__name__, {}


def parts(model: Any) -> tuple[Any, Any, Any]:
    """The Transformer, Dense and mask of a model that has the usual form."""
    names = [type(module).__name__ for module in model]
    if names != ["Transformer", "Dense", "MultiVectorMask", "Normalize"]:
        raise InputError(
            f"model: expected Transformer, Dense, MultiVectorMask, Normalize, got {', '.join(names)}"
        )
    if getattr(model[0], "query_expansion", None):
        raise InputError("model: query expansion cannot be exported")
    if type(model[1].activation_function).__name__ != "Identity":
        raise InputError("model: a Dense head with an activation cannot be exported")
    return model[0], model[1], model[2]


def _network(torch: Any, encoder: Any, head: Any, old: list[int] | None) -> Any:
    """Token ids → unit token embeddings. There is no mask: texts of one length are encoded together."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = encoder, head

        def forward(self, input_ids):
            found = self.encoder(input_ids=input_ids, return_dict=True)
            return torch.nn.functional.normalize(self.head(found.last_hidden_state), dim=-1)

    # The model that was given stays as it is.
    network = copy.deepcopy(Network().eval())
    # The plainest form of attention: others guard against rows that are masked altogether.
    network.encoder.set_attn_implementation("eager")
    if old is not None:
        words = network.encoder.get_input_embeddings()
        kept = words.weight.detach()[torch.tensor(old)]
        network.encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(kept))
    return network


def _skipped(model: Any, mask: Any, old: list[int] | None) -> dict[str, list[int]]:
    """Ids of tokens that are left out, by role."""
    if mask.keep_only_token_ids:
        raise InputError("model: a mask that keeps some token ids only cannot be exported")
    words = mask.skiplist_words
    ids = {model.tokenizer.convert_tokens_to_ids(word) for word in words} - {model.tokenizer.unk_token_id}
    found = sorted(ids if old is None else {old.index(i) for i in ids if i in set(old)})
    return {role: found if role in mask.skiplist_tasks else [] for role in ("query", "document")}


def _write_onnx(torch: Any, network: Any, file: Path) -> None:
    ids = torch.tensor([[0, 1, 2, 1], [1, 2, 0, 0]])
    loud = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loud]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for logger in loud:
            logger.setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                network,
                (ids,),
                str(file),
                input_names=["input_ids"],
                output_names=["token_embeddings"],
                dynamic_shapes=({0: "batch", 1: "tokens"},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        finally:
            for logger, level in zip(loud, levels, strict=True):
                logger.setLevel(level)


def _agreement(model: Any, encoder: Encoder, texts: Sequence[str]) -> dict[str, float]:
    cosines: list[np.ndarray] = []
    for role, encode in (("query", model.encode_query), ("document", model.encode_document)):
        wanted = encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
        for x, y in zip(wanted, encoder.encode(texts, role), strict=True):
            if x.shape != y.shape:
                raise InputError(f"model: the export has {len(y)} tokens where the model has {len(x)}")
            cosines.append((x * y).sum(axis=1))
    every = np.concatenate(cosines)
    return {"smallest": float(every.min()), "mean": float(every.mean())}


def texts_of(spec: str) -> list[str]:
    """Lines of a file, or the queries and documents of a collection."""
    if Path(spec).is_file():
        return [line for _, line in lines_of(Path(spec)) if line.strip()]
    collection = load_collection(spec, split="all")
    return [*collection.queries.values(), *collection.documents.values()]
