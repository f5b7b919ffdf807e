"""``Encoder``: token embeddings by onnxruntime, as the exported model gave them in torch."""

import functools
import json
import lzma
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..encoding import encode, fastest
from ..errors import InputError, closest, require
from ..files import named
from ..fingerprint import IDENTITY, of_files, of_settings
from ..similarity.words import words_of

FORMAT = "optical-edge"
#: Models of version 1 can be read, too: they have no checksums, and their embeddings in int8 depend on the batch.
VERSION = 2
#: The files of a model, by the precision of its weights.
MODELS = {"float32": "model.onnx", "int8": "model.int8.onnx"}
#: The tokenizer before its vocabulary was trimmed.
UNTRIMMED = "untrimmed.json.xz"
#: Tokens that one call of the runtime gets: what lies between two layers stays in the second-level cache of a core.
TOKENS_PER_BATCH = 512
#: Characters for each token of ``max_tokens`` that the tokenizer first gets of a long text, and where they may end.
CHARACTERS_PER_TOKEN = 16
_SPACE = re.compile(r"\s")
#: onnxruntime adds and normalises in two passes with vector instructions faster than in its fused one without them.
_SLOW = ("SkipLayerNormFusion",)
#: From how many times the tokens of the whole vocabulary on texts are worth a warning.
COSTLY = 1.1


class Cut(NamedTuple):
    """A text as a tokenizer cuts it.

    Attributes
    ----------
    tokens : list of str
        Those that have an embedding, as the tokenizer writes them.
    words : list of str
    word_of : (tokens,) int array
        The number of each token's word; −1 for tokens of the prompt and special ones, which belong to no word.
    """

    tokens: list[str]
    words: list[str]
    word_of: np.ndarray


class Encoder:
    """A late-interaction model exported by ``optical-rs export``, on a CPU without torch.

    Parameters
    ----------
    path : path
        The exported folder.
    precision : {"int8", "float32"}, optional
        Which weights to use; by default the smallest that the folder has.
    threads : int, optional
        Threads of the runtime; by default one for each core. Embeddings do not depend on them.

    Raises
    ------
    InputError
        Fewer threads than 1, or a folder that is no exported model, is of another format version, lacks the precision, or is damaged:
        the checksums of all that is read are compared.

    Attributes
    ----------
    dim : int
        Numbers per token.
    max_tokens : int
        Tokens of a text that are encoded at most, with prompt and special tokens.
    name : str
        What was exported.
    identity : dict
        Which model it was and which it learnt from; see :func:`~optical_rs.fingerprint.identity_of`.
    """

    def __init__(self, path: str | os.PathLike, *, precision: str | None = None, threads: int | None = None):
        if threads is not None and threads < 1:
            raise InputError(f"threads: expected at least 1, got {threads}")
        self.path = named(path)
        config = _config(self.path)
        have = list(config["precisions"])
        if precision is not None and precision not in have:
            raise InputError(f"precision: {self.path} has no '{precision}'{closest(precision, have)}")
        self.precision: str = precision or ("int8" if "int8" in have else have[0])
        self.dim: int = config["dim"]
        self.max_tokens: int = config["max_tokens"]
        self.name: str = config["name"]
        self.prompts: dict[str, str] = config["prompts"]
        self.identity: dict[str, str | None] = {key: config[key] for key in IDENTITY if key in config}
        self._skip = {role: np.array(ids, dtype=np.int64) for role, ids in config["skip"].items()}
        self._config = config
        runtime = require("onnxruntime", "edge")
        file = self._checked(MODELS[self.precision])
        self._tokenizer = self._tokenizer_of(self._checked("tokenizer.json").read_bytes())
        # Once and for all: threads share the tokenizer. What is cut off is among an encoding's overflowing parts.
        self._tokenizer.enable_truncation(self.max_tokens)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        # Threads that wait by spinning would take the cores from the search.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW
        )
        self._masked = any(i.name == "attention_mask" for i in self._session.get_inputs())

    def _checked(self, name: str) -> Path:
        """A file of the model, if it is what was exported."""
        file = self.path / name
        if not file.is_file():
            raise InputError(f"model: {self.path} is damaged: it has no {name}")
        wanted = self._config.get("files", {}).get(name)
        if self._config["version"] > 1 and of_files(file) != wanted:
            raise InputError(f"model: {file} is damaged: its checksum does not match")
        return file

    @staticmethod
    def _tokenizer_of(content: bytes) -> Any:
        # As bytes: as text of Python it takes four times the memory.
        tokenizer = require("tokenizers", "edge").Tokenizer.from_buffer(content)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @functools.cached_property
    def content(self) -> str:
        """A hash of the model: the weights as they are kept, the tokenizer and the settings.

        What runs it is left out: another version of onnxruntime or of this package, or another processor, changes
        embeddings by rounding, and no index would outlive an upgrade if that counted.
        """
        return _content(self.path, self._config, self.precision)

    def vocabulary_cost(self, texts: Sequence[str]) -> tuple[float, float]:
        """What it costs on texts that the vocabulary was trimmed.

        Returns
        -------
        (float, float)
            The share of texts that take more tokens than with the whole vocabulary, and how many times its tokens
            all of them take: (0, 1) for texts that were named when the model was exported, or if it was not trimmed.
        """
        if UNTRIMMED not in self._config.get("files", {}):
            return 0.0, 1.0
        from .vocabulary import token_cost

        whole = self._tokenizer_of(lzma.decompress(self._checked(UNTRIMMED).read_bytes()))
        return token_cost(self._tokenizer, whole, texts)

    def tokens(self, text: str, role: str) -> list[str]:
        """The tokens of a text that have an embedding, as the tokenizer writes them."""
        return self.cut(text, role).tokens

    def cut(self, text: str, role: str) -> Cut:
        """The tokens of a text that have an embedding, and its words."""
        encoded = self._encodings([text], role)[0]
        prompt = self.prompts.get(role) or ""
        words, of = words_of(prompt + text, encoded.offsets, len(prompt))
        kept = ~np.isin(encoded.ids, self._skip[role])
        return Cut([token for token, own in zip(encoded.tokens, kept, strict=True) if own], words, of[kept])

    def encode(
        self,
        texts: Sequence[str],
        role: str,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[np.ndarray]:
        """Token embeddings of texts in the role ``"query"`` or ``"document"``.

        Texts of one length are encoded together, so that nothing is padded: a text's embedding has the same bits
        whatever else is encoded with it. What is beyond ``max_tokens`` is left out; see :func:`windows` for long
        documents.

        Parameters
        ----------
        texts : sequence of str
        role : {"query", "document"}
        progress : callable, optional
            Called with the number of texts done and of all texts.

        Returns
        -------
        list of (tokens, dim) float32 arrays
            Unit vectors, in the order of the texts.

        Raises
        ------
        InputError
            An unknown role, or something that is not text.
        """
        return encode(self, texts, role, progress=progress)

    #: Texts of one length go together: there is no mask, and a text's embedding depends on that text alone.
    padded = 0.0

    @property
    def tokens_per_batch(self) -> int:
        """Of a batch; see :class:`~optical_rs.encoding.Runtime`, whose methods follow."""
        return TOKENS_PER_BATCH

    def prepare(self, texts: Sequence[str], role: str) -> tuple[list[list[int]], list[int]]:
        """Token ids of texts, and their numbers."""
        ids = [found.ids for found in self._encodings(texts, role, fast=True)]
        return ids, list(map(len, ids))

    def features(self, prepared: list[list[int]], role: str) -> np.ndarray:
        """Token ids of texts of one length, (texts, tokens) int64."""
        return np.array(prepared, dtype=np.int64)

    def embed(self, features: np.ndarray, role: str) -> list[np.ndarray]:
        """(tokens, dim) float32 of each text."""
        if not features.size:
            return list(np.zeros((len(features), 0, self.dim), np.float32))
        inputs = {"input_ids": features}
        if self._masked:
            inputs["attention_mask"] = np.ones_like(features)
        out = self._session.run(None, inputs)[0]
        kept = ~np.isin(features, self._skip[role])
        return [tokens[of_text] for tokens, of_text in zip(out, kept, strict=True)]

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
        found = self._tokenizer.encode(text, add_special_tokens=False)
        spans = [span for part in (found, *found.overflowing) for span in part.offsets]
        pieces = []
        for first in range(0, max(len(spans) - overlap, 1), size - overlap):
            part = spans[first : first + size]
            pieces.append(text[part[0][0] : part[-1][1]].strip() if part else text)
        return pieces

    def _encodings(self, texts: Sequence[str], role: str, fast: bool = False) -> list[Any]:
        """What the tokenizer makes of texts; fast: the ids alone.

        Of a text that is far longer than what is kept, the tokenizer gets the beginning alone. It ends before a space, where
        tokenizers divide a text first, and holds at least as many tokens again as are kept: these are those of the whole text.
        """
        if role not in self._skip:
            raise InputError(f"role: expected 'query' or 'document', got {role!r}")
        prompt = self.prompts.get(role, "")
        work = self._tokenizer.encode_batch_fast if fast else self._tokenizer.encode_batch
        texts = [prompt + text for text in texts]
        parts = [_beginning(text, CHARACTERS_PER_TOKEN * self.max_tokens) for text in texts]
        found: list[Any] = work(parts)
        for i, (part, text) in enumerate(zip(parts, texts, strict=True)):
            while len(part) < len(text) and len(found[i].overflowing) < 2:
                part = _beginning(text, 2 * len(part))
                found[i] = work([part])[0]
        return found


def _beginning(text: str, characters: int) -> str:
    """At least so many characters of a text, up to a space; all of it if none follows."""
    space = _SPACE.search(text, characters)
    return text[: space.start()] if space else text


def fastest_encoder(
    path: str | os.PathLike, texts: Sequence[str], *, threads: int | None = None, content: str | None = None
) -> Encoder:
    """An exported model in the precision that goes on with a store, or else in the fastest on this machine.

    Parameters
    ----------
    path : path
        The exported folder.
    texts : sequence of str
        Documents, of which a few are encoded in each precision that the folder has, if it has several; see
        :func:`~optical_rs.encoding.fastest`.
    threads : int, optional
        As for :class:`Encoder`.
    content : str, optional
        :attr:`Encoder.content` of what made a store. Nothing is timed then: the precision is that of the store, or
        any if the store is of another model, to which nothing can be added.

    Returns
    -------
    Encoder
    """
    config = _config(Path(path))
    precisions = sorted(config["precisions"])  # float32 first: the reference
    if content is not None:
        own = (name for name in precisions if _content(Path(path), config, name) == content)
        return Encoder(path, precision=next(own, precisions[0]), threads=threads)
    encoders = {name: Encoder(path, precision=name, threads=threads) for name in precisions}
    return encoders[fastest({name: encoder.encode_document for name, encoder in encoders.items()}, texts)]


def _content(path: Path, config: Mapping[str, Any], precision: str) -> str:
    """:attr:`Encoder.content`, without loading the model."""
    known = config.get("files", {})
    return of_settings(
        {
            "files": [
                known.get(name) or of_files(path / name) for name in (MODELS[precision], "tokenizer.json")
            ],
            "settings": {key: config[key] for key in ("max_tokens", "prompts", "skip")},
        }
    )


def _config(path: Path) -> dict[str, Any]:
    file = path / "edge.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"model: {path} is no exported model (it has no edge.json); make one with optical-rs export"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"model: {file} is damaged ({error})") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"model: {file} does not describe an exported model")
    if config.get("version") not in (1, VERSION):
        raise InputError(
            f"model: {path} has format version {config.get('version')}, this program reads 1 and {VERSION}"
        )
    if config["version"] > 1 and config != sealed(config):
        raise InputError(f"model: {file} is damaged: its checksum does not match")
    return config


def sealed(config: dict[str, Any]) -> dict[str, Any]:
    """A description with its checksum."""
    said = {key: value for key, value in config.items() if key != "checksum"}
    return {**said, "checksum": of_settings(said)}
