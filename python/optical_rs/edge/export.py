"""``export``: a trained model as a small folder that needs no torch."""

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import load_collection
from ..errors import InputError, closest, require
from .encoder import FORMAT, MODELS, VERSION, Encoder

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
    precisions: Sequence[str] = ("float32", "int8"),
    vocabulary: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write a model for :class:`~optical_rs.edge.Encoder`, and check that both agree.

    Parameters
    ----------
    model : path, hub id or MultiVectorEncoder
        A late-interaction model: Transformer, Dense, mask and Normalize, as
        :func:`~optical_rs.models.late_interaction` makes it.
    out : path
        A directory that does not exist or is empty.
    precisions : sequence of {"float32", "int8"}
        Weights to write. ``"int8"`` has the matrices in bytes, with a scale for each output channel, and
        the word embeddings with a scale for each word; activations are quantised as they come.
    vocabulary : sequence of str, optional
        Texts that the model will meet: pieces that they do not need are left out, which makes the word
        embeddings small. These texts keep their tokens; others are cut into smaller pieces.

    Returns
    -------
    dict
        What ``edge.json`` says, with ``agreement``: the smallest and the mean cosine between the token
        embeddings of the export and of the model, for each precision.

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

    from .vocabulary import trim

    for precision in precisions:
        if precision not in MODELS:
            raise InputError(f"precisions: unknown precision '{precision}'{closest(precision, MODELS)}")
    if not precisions:
        raise InputError("precisions: expected at least one")
    out = check_out(out)
    model, source = loaded(model)
    transformer, dense, mask = parts(model)
    tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    prompts = {role: model.prompts.get(role) or "" for role in ("query", "document")}
    old = None
    if vocabulary is not None:
        every = [prompt + text for text in [*vocabulary, *SAMPLE] for prompt in prompts.values()]
        tokenizer, old = trim(tokenizer, every)
    network = _network(torch, transformer.auto_model, dense.linear, old)
    skip = _skipped(model, mask, old)
    pad = model.tokenizer.pad_token_id or 0
    config: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": source,
        "dim": int(dense.linear.out_features),
        "max_tokens": int(model.get_max_seq_length() or 512),
        "prompts": prompts,
        "pad_id": pad if old is None else old.index(pad),
        "skip": skip,
        "vocabulary": tokenizer.get_vocab_size(),
        "precisions": list(precisions),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        tokenizer.save(str(folder / "tokenizer.json"))
        _write_onnx(torch, network, folder / MODELS["float32"])
        if "int8" in precisions:
            _write_int8(folder / MODELS["float32"], folder / MODELS["int8"])
        if "float32" not in precisions:
            (folder / MODELS["float32"]).unlink()
        (folder / "edge.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        check = [*SAMPLE, *(vocabulary or ())[:100]]
        config["agreement"] = {p: _agreement(model, Encoder(folder, precision=p), check) for p in precisions}
        if "float32" in precisions and config["agreement"]["float32"]["smallest"] < 0.999:
            raise InputError(
                f"model: exported embeddings are off: smallest cosine "
                f"{config['agreement']['float32']['smallest']:.4f}"
            )
        (folder / "edge.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        shutil.move(folder, out)
    return config


def check_out(out: str | Path) -> Path:
    """A folder to write to, which must not hold anything."""
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"out: {out} is not empty")
    return out


def loaded(model: Any) -> tuple[Any, str]:
    """A model, loaded if it is a path or hub id, and what to call it."""
    from ..models import load_model

    if isinstance(model, (str, Path)):
        return load_model(model, device="cpu"), str(model)
    return model, type(model).__name__


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
    """Token ids and mask → unit token embeddings."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = encoder, head

        def forward(self, input_ids, attention_mask):
            found = self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
            return torch.nn.functional.normalize(self.head(found.last_hidden_state), dim=-1)

    network = Network().eval()
    if old is not None:
        import copy

        network = copy.deepcopy(network)
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
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    loud = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loud]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for logger in loud:
            logger.setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                network,
                (ids, mask),
                str(file),
                input_names=["input_ids", "attention_mask"],
                output_names=["token_embeddings"],
                dynamic_shapes=({0: "batch", 1: "tokens"}, {0: "batch", 1: "tokens"}),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        finally:
            for logger, level in zip(loud, levels, strict=True):
                logger.setLevel(level)


def _write_int8(float32: Path, file: Path) -> None:
    """Matrices by onnxruntime's dynamic quantisation, word embeddings with a scale for each word."""
    import onnx
    from onnx import helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        quantize_dynamic(
            float32, file, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"]
        )
    finally:
        root.setLevel(level)
    model = onnx.load(file)
    graph = model.graph
    lookup = next(n for n in graph.node if n.op_type == "Gather" and "input_ids" in n.input)
    words = next(i for i in graph.initializer if i.name == lookup.input[0])
    values = numpy_helper.to_array(words)
    scales = np.abs(values).max(axis=1, keepdims=True) / 127
    codes = np.round(values / np.where(scales > 0, scales, 1)).astype(np.int8)
    graph.initializer.remove(words)
    graph.initializer.extend(
        [
            numpy_helper.from_array(codes, "words.codes"),
            numpy_helper.from_array(scales.astype(np.float32), "words.scales"),
        ]
    )
    at = list(graph.node).index(lookup)
    graph.node.remove(lookup)
    nodes = [
        helper.make_node("Gather", ["words.codes", "input_ids"], ["words.found"], axis=0),
        helper.make_node("Cast", ["words.found"], ["words.float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Gather", ["words.scales", "input_ids"], ["words.scale"], axis=0),
        helper.make_node("Mul", ["words.float", "words.scale"], [lookup.output[0]]),
    ]
    for offset, node in enumerate(nodes):
        graph.node.insert(at + offset, node)
    onnx.save(model, file)


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
        return [line for line in Path(spec).read_text(encoding="utf-8").splitlines() if line.strip()]
    collection = load_collection(spec, split="all")
    return [*collection.queries.values(), *collection.documents.values()]
