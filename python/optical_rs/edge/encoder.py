"""``Encoder``: token embeddings by onnxruntime, as the exported model gave them in torch."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, closest, require

FORMAT = "optical-edge"
VERSION = 1
#: The files of a model, by the precision of its weights.
MODELS = {"float32": "model.onnx", "int8": "model.int8.onnx"}
#: Tokens with padding that one call of the runtime gets; bounds memory.
TOKENS_PER_BATCH = 4096


class Encoder:
    """A late-interaction model exported by ``optical-rs export``, on a CPU without torch.

    Parameters
    ----------
    path : path
        The exported folder.
    precision : {"int8", "float32"}, optional
        Which weights to use; by default the smallest that the folder has.
    threads : int, optional
        Threads of the runtime; by default one for each core.

    Raises
    ------
    InputError
        A folder that is no exported model, is of another format version, or lacks the precision.

    Attributes
    ----------
    dim : int
        Numbers per token.
    max_tokens : int
        Tokens of a text that are encoded at most, with prompt and special tokens.
    name : str
        What was exported.
    """

    def __init__(self, path: str | os.PathLike, *, precision: str | None = None, threads: int | None = None):
        self.path = Path(path)
        config = _config(self.path)
        have = list(config["precisions"])
        if precision is not None and precision not in have:
            raise InputError(f"precision: {self.path} has no '{precision}'{closest(precision, have)}")
        self.precision: str = precision or ("int8" if "int8" in have else have[0])
        self.dim: int = config["dim"]
        self.max_tokens: int = config["max_tokens"]
        self.name: str = config["name"]
        self.prompts: dict[str, str] = config["prompts"]
        self._skip = {role: np.array(ids, dtype=np.int64) for role, ids in config["skip"].items()}
        self._pad: int = config["pad_id"]
        runtime = require("onnxruntime", "edge")
        tokenizer = require("tokenizers", "edge").Tokenizer.from_file(str(self.path / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_tokens)
        self._tokenizer = tokenizer
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        # Threads that wait by spinning would take the cores from the search.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(
            str(self.path / MODELS[self.precision]), options, providers=["CPUExecutionProvider"]
        )

    def tokens(self, text: str, role: str) -> list[str]:
        """The tokens of a text that have an embedding, as the tokenizer writes them."""
        encoded = self._encodings([text], role)[0]
        return [token for token, kept in zip(encoded.tokens, self._kept(encoded, role), strict=True) if kept]

    def encode(
        self,
        texts: Sequence[str],
        role: str,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[np.ndarray]:
        """Token embeddings of texts in the role ``"query"`` or ``"document"``.

        Texts are encoded in order of their length, so that little is padded, and returned in the order
        given. What is beyond ``max_tokens`` is left out; see :func:`windows` for long documents.

        Parameters
        ----------
        texts : sequence of str
        role : {"query", "document"}
        progress : callable, optional
            Called with the number of texts done and of all texts.

        Returns
        -------
        list of (tokens, dim) float32 arrays
            Unit vectors.

        Raises
        ------
        InputError
            An unknown role, or something that is not text.
        """
        encodings = self._encodings(texts, role)
        order = sorted(range(len(encodings)), key=lambda i: len(encodings[i].ids))
        found: list[Any] = [None] * len(encodings)
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and (end + 1 - start) * len(encodings[order[end]].ids) <= TOKENS_PER_BATCH:
                end += 1
            batch = [encodings[i] for i in order[start:end]]
            width = max(len(e.ids) for e in batch)
            ids = np.full((len(batch), width), self._pad, dtype=np.int64)
            mask = np.zeros((len(batch), width), dtype=np.int64)
            for row, encoding in enumerate(batch):
                ids[row, : len(encoding.ids)] = encoding.ids
                mask[row, : len(encoding.ids)] = 1
            out = self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
            for row, (i, encoding) in enumerate(zip(order[start:end], batch, strict=True)):
                found[i] = out[row, : len(encoding.ids)][self._kept(encoding, role)]
            start = end
            if progress:
                progress(end, len(order))
        return found

    def encode_query(self, texts: Sequence[str]) -> list[np.ndarray]:
        """:meth:`encode` in the role of queries."""
        return self.encode(texts, "query")

    def encode_document(self, texts: Sequence[str]) -> list[np.ndarray]:
        """:meth:`encode` in the role of documents."""
        return self.encode(texts, "document")

    def windows(self, text: str, size: int, overlap: int) -> list[str]:
        """A long document as overlapping pieces of ``size`` tokens of text each.

        A search that takes the best of a document's pieces as its score is MaxP (Dai and Callan, SIGIR
        2019). A text of up to ``size`` tokens is one piece.

        Raises
        ------
        InputError
            A size that leaves no room for prompt and special tokens, or an overlap that is not below it.
        """
        room = self.max_tokens - len(self._encodings([""], "document")[0].ids)
        if not 1 <= size <= room:
            raise InputError(f"size: expected 1 to {room} tokens, got {size}")
        if not 0 <= overlap < size:
            raise InputError(f"overlap: expected 0 to {size - 1} tokens, got {overlap}")
        self._tokenizer.no_truncation()
        try:
            spans = self._tokenizer.encode(text, add_special_tokens=False).offsets
        finally:
            self._tokenizer.enable_truncation(self.max_tokens)
        pieces = []
        for first in range(0, max(len(spans) - overlap, 1), size - overlap):
            part = spans[first : first + size]
            pieces.append(text[part[0][0] : part[-1][1]].strip() if part else text)
        return pieces

    def _encodings(self, texts: Sequence[str], role: str) -> list[Any]:
        if role not in self._skip:
            raise InputError(f"role: expected 'query' or 'document', got {role!r}")
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"texts: expected strings, got {type(text).__name__} at {i}")
        prompt = self.prompts.get(role, "")
        return self._tokenizer.encode_batch([prompt + text for text in texts])

    def _kept(self, encoding: Any, role: str) -> np.ndarray:
        return ~np.isin(encoding.ids, self._skip[role])


def _config(path: Path) -> dict[str, Any]:
    file = path / "edge.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"model: {path} is no exported model (it has no edge.json); make one with optical-rs export"
        ) from None
    except ValueError as error:
        raise InputError(f"model: {file} is damaged ({error})") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"model: {file} does not describe an exported model")
    if config["version"] != VERSION:
        raise InputError(
            f"model: {path} has format version {config['version']}, this program reads {VERSION}"
        )
    return config
