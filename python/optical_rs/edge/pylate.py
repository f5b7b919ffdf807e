"""A model in PyLate's layout."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..errors import InputError, require
from .export import check_out, loaded, parts


def export_pylate(model: Any, out: str | Path) -> dict[str, Any]:
    """Write a model as a checkpoint that PyLate loads, with the same embeddings.

    ``pylate.models.ColBERT(out)`` finds lengths, prompts and left-out words in it. PyLate adds a prompt only
    on request: ``encode(texts, is_query=True, prompt_name="query")``, and ``is_query=False,
    prompt_name="document"``.

    Parameters
    ----------
    model : path, hub id or MultiVectorEncoder
        A late-interaction model: Transformer, Dense, mask and Normalize.
    out : path
        A directory that does not exist or is empty.

    Returns
    -------
    dict
        What ``config_sentence_transformers.json`` says.

    Raises
    ------
    InputError
        A model of another form, one whose queries leave words out (PyLate's do not), or a directory that is
        in use.
    """
    save_file = require("safetensors.torch", "train").save_file
    out = check_out(out)
    model, _, _ = loaded(model)
    transformer, dense, mask = parts(model)
    if mask.skiplist_words and "query" in mask.skiplist_tasks:
        raise InputError("model: leaves words of queries out, which PyLate cannot")
    longest = int(model.get_max_seq_length() or 512)
    config = {
        "model_type": "ColBERT",
        "similarity_fn_name": "MaxSim",
        "prompts": {role: model.prompts.get(role) or "" for role in ("query", "document")},
        "default_prompt_name": None,
        "query_prefix": "",
        "document_prefix": "",
        "query_length": longest,
        "document_length": longest,
        "do_query_expansion": False,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list(mask.skiplist_words),
    }
    head = {
        "in_features": dense.linear.in_features,
        "out_features": dense.linear.out_features,
        "bias": dense.linear.bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        folder = Path(temporary) / "model"
        transformer.auto_model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        (folder / "1_Dense").mkdir()
        weights = {f"linear.{name}": p.detach().contiguous() for name, p in dense.linear.named_parameters()}
        save_file(weights, folder / "1_Dense" / "model.safetensors")
        for name, content in (
            ("1_Dense/config.json", head),
            ("modules.json", modules),
            ("config_sentence_transformers.json", config),
            ("sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False}),
            # Newer transformers keep these in tokenizer_config.json alone.
            ("special_tokens_map.json", model.tokenizer.special_tokens_map),
        ):
            (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        shutil.move(folder, out)
    return config
