"""What a published source declares, and how its files are found, downloaded and verified."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ... import fingerprint
from ...errors import InputError, closest, require
from ...files import Texts, check_id
from ..cache import data_folder

SPLITS = ("train", "dev", "test", "all")
SIDES = ("query", "document")


@functools.lru_cache(maxsize=1)
def checksums() -> Mapping[str, str]:
    """SHA-256 by ``folder/path``, of the files that the pinned revisions hold; of a path that ends in ``/``,
    that of the folder (:func:`~optical_rs.fingerprint.of_files`)."""
    lines = Path(__file__).with_name("sha256.txt").read_text(encoding="utf-8").splitlines()
    return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}


@dataclasses.dataclass(frozen=True)
class Repository:
    """Where files are published.

    Attributes
    ----------
    folder : str
        Where they are looked for below :func:`~optical_rs.data.cache.data_folder`.
    path : str
        ``owner/name`` on the host, or an address.
    revision : str
        The commit that is pinned, or the name of a branch.
    host : {"github", "hub", ""}
        Files of GitHub and of the Hugging Face hub are downloaded one by one; others are the user's to get.
    """

    folder: str
    path: str
    revision: str = "main"
    host: str = "github"

    @property
    def address(self) -> str:
        """The page of the repository at its revision."""
        if self.host == "github":
            return f"https://github.com/{self.path}/tree/{self.revision}"
        if self.host == "hub":
            return f"https://huggingface.co/datasets/{self.path}"
        return self.path

    def pinned(self) -> list[str]:
        """Paths of the files whose checksums are known, below the folder."""
        start = f"{self.folder}/"
        return [path.removeprefix(start) for path in checksums() if path.startswith(start)]

    def local(self, path: str = "") -> Path:
        """Where a file is looked for, whether or not it is there."""
        return data_folder() / self.folder / path

    def file(self, path: str) -> Path:
        """A file that is there, or was downloaded and verified now.

        Raises
        ------
        InputError
            If it cannot be had, with its address and the place to put it; if a download is not what was pinned.
        """
        local = self.local(path)
        if local.exists():
            return local
        where = f"download it and put it at {local}"
        if self.host == "hub":
            hub = require("huggingface_hub", "data")
            try:
                options = {"repo_type": "dataset", "revision": self.revision}
                return Path(hub.hf_hub_download(self.path, path, **options))
            except Exception as error:  # noqa: BLE001 - the hub's client raises many kinds for "not reached"
                reason = str(error).strip().splitlines()[0]
                raise InputError(
                    f"{self.folder}: cannot reach {path} of the data set {self.path} on the Hugging Face hub "
                    f"({reason}); {where}"
                ) from None
        if self.host != "github":
            raise InputError(f"{self.folder}: no file {path}; get {self.path} and put it at {local}")
        import urllib.request  # it takes a while, and mostly nothing is downloaded

        url = f"https://raw.githubusercontent.com/{self.path}/{self.revision}/{path}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                content = answer.read()
        except OSError as error:
            raise InputError(f"{self.folder}: cannot reach {url} ({error}); {where}") from None
        wanted = checksums().get(f"{self.folder}/{path}")
        if wanted and hashlib.sha256(content).hexdigest() != wanted:
            raise InputError(f"{self.folder}: {url} is not the file that was pinned (SHA-256 {wanted})")
        local.parent.mkdir(parents=True, exist_ok=True)
        temporary = local.with_name(f"{local.name}.{os.getpid()}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, local)
        return local

    def clone(self) -> Path:
        """The folder, for sources that are taken whole.

        Raises
        ------
        InputError
            If it is not there, with what to download.
        """
        if self.local().is_dir():
            return self.local()
        raise InputError(
            f"{self.folder}: no folder {self.local()}; clone https://github.com/{self.path} there "
            f"(revision {self.revision[:7]})"
        )

    def verify(self) -> dict[str, str]:
        """``"as pinned"``, ``"differs"`` or ``"missing"`` by path, of the files whose checksums are known."""
        found = {}
        for path in self.pinned():
            local, wanted = self.local(path), checksums()[f"{self.folder}/{path}"]
            if not local.exists():
                found[path] = "missing"
                continue
            if path.endswith("/"):
                digest = fingerprint.of_files(local)
            else:
                digest = hashlib.sha256(local.read_bytes()).hexdigest()
            found[path] = "as pinned" if digest == wanted else "differs"
        return found


class Found(NamedTuple):
    """What a source's reader of collections returns."""

    queries: dict[str, str]
    documents: dict[str, str]
    qrels: dict[str, dict[str, int]]
    #: Rows of the source that were left out because a text is missing.
    skipped: int = 0


#: Splits or sides, or a function of what follows the source's name that returns them.
Choice = tuple[str, ...] | Callable[[str], tuple[str, ...]]


def _of(choice: Choice, rest: str) -> tuple[str, ...]:
    return choice(rest) if callable(choice) else choice


@dataclasses.dataclass(frozen=True)
class Part:
    """One thing that a source loads.

    Attributes
    ----------
    read : callable
        Its reader: of bitext ``(rest, splits)``, rows; of a collection ``(rest, splits, side)``, :class:`Found`;
        of question–passage pairs ``(rest, splits)``, rows of where, question, passage and negatives.
    splits : tuple of str or callable
        The splits that it has.
    sides : tuple of str or callable
        Of a collection, the sides that may be foreign, the usual one first; none if it is not known.
    """

    read: Callable[..., Any]
    splits: Choice
    sides: Choice = ()

    def have(self, rest: str) -> tuple[str, ...]:
        """The splits of what ``rest`` names."""
        return _of(self.splits, rest)

    def foreign(self, rest: str) -> tuple[str, ...]:
        """The sides of what ``rest`` names that may be foreign."""
        return _of(self.sides, rest)

    def choose(self, spec: str, rest: str, split: str) -> tuple[str, ...]:
        """The splits to read for ``split``.

        Raises
        ------
        InputError
            If there is no such split, with those that there are.
        """
        have = self.have(rest)
        if split == "all":
            return have
        if split not in have:
            raise InputError(f"split: {spec} has no '{split}'; it has {', '.join(have) or 'none'}")
        return (split,)

    def side(self, spec: str, rest: str, side: str | None) -> str | None:
        """The side that is foreign.

        Raises
        ------
        InputError
            If it cannot be the one that was asked for.
        """
        have = self.foreign(rest)
        if side is None or not have:
            return side or (have[0] if have else None)
        if side not in have:
            queries, documents = ("foreign", "English") if have[0] == "query" else ("English", "foreign")
            raise InputError(
                f"side: {spec} has {queries} queries and {documents} documents; expected side '{have[0]}', got '{side}'"
            )
        return side


@dataclasses.dataclass(frozen=True)
class Source:
    """The declaration of a published source.

    Attributes
    ----------
    name : str
        What specs begin with.
    spelling : str
        A spec, as an example.
    title : str
        What it is, in a few words.
    size : str
        How much.
    licence : str
        As the publisher says.
    repositories : tuple of Repository
        Where its files come from; none for installed packages.
    getting : str
        How its files are got, if not from the repositories.
    bitext, collection, pairs : Part or None
        What it loads.
    documents : callable or None
        ``rest → Texts``: documents that are read as they are asked for.
    """

    name: str
    spelling: str
    title: str
    size: str
    licence: str
    repositories: tuple[Repository, ...] = ()
    getting: str = ""
    bitext: Part | None = None
    collection: Part | None = None
    pairs: Part | None = None
    documents: Callable[[str], Texts] | None = None

    def read_bitext(self, spec: str, rest: str, split: str) -> Iterable[tuple[str, Any, Any]]:
        """Rows of ``(where, foreign, english)``.

        Raises
        ------
        InputError
            If it has no bitext or not that split; for all of a source that is for tests alone.
        """
        part = self.part("bitext", spec)
        splits = part.choose(spec, rest, split)
        if split == "all" and "train" not in splits:
            raise InputError(f"split: {spec} is for tests alone; it has {', '.join(splits) or 'none'}")
        return part.read(rest, splits)

    def read_collection(self, spec: str, rest: str, split: str, side: str | None) -> tuple[Found, str | None]:
        """Queries, documents and judgments, and the side that is foreign."""
        part = self.part("collection", spec)
        side = part.side(spec, rest, side)
        return part.read(rest, part.choose(spec, rest, split), side), side

    def read_pairs(self, spec: str, rest: str, split: str) -> Iterable[tuple]:
        """Rows of ``(where, question, passage, negatives)``, with short answers where the source has them."""
        part = self.part("pairs", spec)
        return part.read(rest, part.choose(spec, rest, split))

    def part(self, kind: str, spec: str) -> Part:
        """What it loads of a kind: ``"bitext"``, ``"collection"`` or ``"pairs"``.

        Raises
        ------
        InputError
            If it loads none, with what it loads.
        """
        part: Part | None = getattr(self, kind)
        if part is None:
            have = [k for k in ("bitext", "collection", "pairs") if getattr(self, k)]
            words = {"pairs": "question–passage pairs", "collection": "a collection", "bitext": "bitext"}
            raise InputError(
                f"{spec}: expected {words[kind]}; {self.name} has {', '.join(words[k] for k in have)}"
            )
        return part


def choose_language(name: str, language: str, known: Iterable[str], what: str = "language") -> str:
    """The language (or what else ``what`` says), if it is known.

    Raises
    ------
    InputError
        With the nearest one.
    """
    if language not in (known := list(known)):
        raise InputError(f"{name}: no {what} '{language}'{closest(language, known)}")
    return language


def text_of(where: str, row: Mapping[str, Any], name: str) -> str:
    """A field of a row that must hold text."""
    if name not in row:
        raise InputError(f"{where}: no field '{name}'{closest(name, row)}")
    if not isinstance(row[name], str):
        raise InputError(f"{where}: field '{name}': expected text, got {row[name]!r}")
    return row[name]


def id_of(where: str, row: Mapping[str, Any], name: str) -> str:
    """A field of a row that must hold an id, a text or a number."""
    if name not in row:
        raise InputError(f"{where}: no field '{name}'{closest(name, row)}")
    if not isinstance(row[name], str | int):
        raise InputError(f"{where}: field '{name}': expected an id, got {row[name]!r}")
    return check_id(where, str(row[name]))
