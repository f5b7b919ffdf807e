"""Shards: texts that are encoded together, here or on any machine, and what a store gets for them."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import InputError
from ..files import beside
from ..fingerprint import of_settings, of_texts
from ..similarity import columns
from .encoder import Encoder

#: A generator of each shard's columns, in order, for an encoder, the shards' texts and the form of tokens. For a shard
#: without texts it gives nothing.
Encode = Callable[[Encoder, Iterator[Sequence[str]], str], Generator[Mapping[str, bytes], None, None]]
_ENDING = ".shard"


def index_shard(encoder: Encoder, texts: Sequence[str], dtype: str) -> dict[str, bytes]:
    """A shard of text as a shard of store. It depends on its arguments alone, and writes nothing.

    Parameters
    ----------
    encoder : Encoder
    texts : sequence of str
    dtype : {"float32", "float16", "bfloat16", "int8"}

    Returns
    -------
    dict of str to bytes
        The columns of a store for these texts, for :meth:`~optical_rs.similarity.TokenStore.append_columns`.
    """
    return columns.encoded(encoder.encode_document(texts), encoder.dim, dtype)


def encode_here(
    encoder: Encoder, shards: Iterator[Sequence[str]], dtype: str
) -> Generator[Mapping[str, bytes], None, None]:
    """Each shard in turn, on this machine."""
    for texts in shards:
        yield index_shard(encoder, texts, dtype) if texts else {}


def shards_of(path: str | Path) -> Path:
    """Where shards of an index are kept until their turn comes."""
    return beside(path, ".shards")


class Kept:
    """A folder of finished shards that wait for those before them, by the content that they were made of.

    Each is one file, which is written under another name first. A file that is damaged is as good as none.

    Parameters
    ----------
    folder : path
        It is made when the first shard is kept.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @staticmethod
    def key(encoder: Encoder, texts: Sequence[str], dtype: str) -> str:
        """A hash of all that a shard depends on: model, texts and the form of its tokens."""
        return of_settings({"encoder": encoder.content, "dtype": dtype, "texts": of_texts(texts)})[:32]

    def write(self, key: str, shard: Mapping[str, bytes]) -> None:
        """Keep a shard.

        Raises
        ------
        InputError
            A shard that is kept already with other content, or a disk that is full; what is kept stays as it is.
        """
        packed = _packed(shard)
        if (old := self.read(key)) is not None:
            if _packed(old) != packed:
                raise InputError(
                    f"shards: {self.file(key)} was made again with other content: the machines' processors or "
                    "libraries compute differently"
                )
            return
        temporary = self.file(key).with_suffix(".tmp")
        try:
            self.folder.mkdir(exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(packed)
                columns.flush(file)
            os.replace(temporary, self.file(key))
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise InputError(
                f"shards: {self.folder} cannot be written to ({error.strerror or error}); what is in the index and "
                "in the other shards stays"
            ) from None

    def read(self, key: str) -> dict[str, bytes] | None:
        """A shard, if it is kept and whole."""
        try:
            shard = _unpacked(self.file(key).read_bytes())
        except OSError:
            return None
        if shard is None:
            self.remove(key)
        return shard

    def has(self, key: str) -> bool:
        """Whether a shard is kept and whole."""
        return self.read(key) is not None

    def remove(self, key: str) -> None:
        """Let go of a shard, once the index has it."""
        self.file(key).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what is left, such as shards of texts that changed since, and the folder if nothing else is in it."""
        with contextlib.suppress(OSError):
            for file in self.folder.iterdir():
                if len(file.stem) == 32 and file.suffix in (_ENDING, ".tmp"):
                    file.unlink()
            self.folder.rmdir()

    def file(self, key: str) -> Path:
        """Where a shard is kept."""
        return self.folder / (key + _ENDING)


def _packed(shard: Mapping[str, bytes]) -> bytes:
    """A shard as one file: a checksum of all that follows, the columns' sizes, and the columns."""
    sizes = {name: len(shard[name]) for name in sorted(shard)}
    body = b"\n".join([json.dumps(sizes).encode(), b"".join(shard[name] for name in sizes)])
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _unpacked(packed: bytes) -> dict[str, bytes] | None:
    """A shard of its file, or nothing if that is damaged."""
    checksum, _, body = packed.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        return None
    head, _, data = body.partition(b"\n")
    shard, start = {}, 0
    for name, size in json.loads(head).items():
        shard[name] = data[start : start + size]
        start += size
    return shard
