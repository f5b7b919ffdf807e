"""A million real English texts: descriptions of packages, glosses, definitions of dictionaries, sentences of manuals.

They are read from Debian's packages, which are downloaded into ``--folder`` by apt (any Debian, no root needed), and
written as lines ``{"_id": …, "text": …}``. The same packages give the same lines in the same order, which is that of
the texts' hashes: the first lines are a sample of all. ``--json`` says which version of each package gave how many::

    python bench/texts.py --folder packages --output texts.jsonl --json texts.json
    optical-rs index --model teacher --documents texts.jsonl --output texts
"""

import argparse
import collections
import gzip
import hashlib
import html
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

WORDS = range(5, 61)


def wordnet(data: bytes) -> Iterator[str]:
    """Glosses, and the examples after them."""
    for line in data.decode("utf-8", "ignore").splitlines():
        _, bar, gloss = line.partition(" | ")
        if bar and not line.startswith(" "):
            yield re.split(r';? *"', gloss)[0]
            yield from re.findall(r'"([^"]+)"', gloss)


def dictionary(data: bytes) -> Iterator[str]:
    """Definitions of a dictionary, without headwords, numbers of senses, sources, and what is in brackets."""
    for paragraph in re.split(r"\n\s*\n", gzip.decompress(data).decode("utf-8", "ignore")):
        # A headword, its pronunciation and part of speech end with their line, or with the brackets after them.
        text = re.sub(r"^.*\\[^\n]*\n", "", paragraph.lstrip(), flags=re.S)
        for _ in range(2):  # brackets in brackets
            text = re.sub(r"\[[^\[\]]*\]|\{|\}", " ", text)
        text = re.sub(r"^\s*(\(?[a-z0-9]+[.)]\s)+|--.*$", " ", text, flags=re.S)
        yield from sentences(text)


def manual(data: bytes) -> Iterator[str]:
    """Whole sentences of a page in HTML."""
    text = data.decode("utf-8", "ignore")
    text = re.sub(r"<(script|style|pre|head|nav|h\d)\b.*?</\1>", "\0", text, flags=re.S)
    text = re.sub(r"</?(?:p|div|[uod]l|li|d[td]|t[dhr]|table|section|[bh]r|main|article)\b[^>]*>", "\0", text)
    text = html.unescape(re.sub(r"<[^>]*>", "", text))
    for block in text.split("\0"):
        for sentence in sentences(block):
            if sentence[0].isupper() and sentence[-1] in ".!?":
                yield sentence


def descriptions(listing: str) -> Iterator[str]:
    """What packages are, in a line and in sentences."""
    for first, rest in re.findall(r"^Description-en: (.*)\n((?: .*\n)*)", listing, flags=re.M):
        yield first
        for paragraph in re.split(r"^ \.$", rest, flags=re.M):
            if "\n  " not in paragraph:  # no lists, no tables
                yield from sentences(paragraph)


def sentences(text: str) -> Iterator[str]:
    return filter(None, re.split(r"(?<=[.!?])\s+(?=[A-Z\"'(])", " ".join(text.split())))


#: The packages, the files of each that are read, and how.
PACKAGES = {
    "wordnet-base": (r"/data\.\w+$", wordnet),
    "dict-gcide": (r"\.dict\.dz$", dictionary),
    "dict-foldoc": (r"\.dict\.dz$", dictionary),
    "dict-jargon": (r"\.dict\.dz$", dictionary),
    "linux-doc-6.1": (r"\.html$", manual),
    "openjdk-17-doc": (r"\.html$", manual),
    "python3.11-doc": (r"\.html$", manual),
    "postgresql-doc-15": (r"\.html$", manual),
    "git-doc": (r"\.html$", manual),
    "libreoffice-help-en-us": (r"\.html$", manual),
    "qtbase5-doc-html": (r"\.html$", manual),
    "python-django-doc": (r"\.html$", manual),
    "llvm-15-doc": (r"\.html$", manual),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="for packages; those it has are not fetched again"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="which packages gave how many texts")
    parser.add_argument("--count", type=int, default=1_000_000)
    options = parser.parse_args()
    folder = options.folder.resolve()
    known: dict[bytes, tuple[str, str]] = {}
    packages = {}
    for name, version, checksum, texts in sources(folder):
        before = len(known)
        for text in texts:
            text = " ".join(text.split()).strip(" ;,:")
            letters = sum(map(str.isalpha, text))
            if len(text.split()) in WORDS and text.isprintable() and letters > 0.7 * len(text):
                known.setdefault(hashlib.sha256(text.casefold().encode()).digest(), (name, text))
        packages[name] = {"version": version, "sha256": checksum, "new": len(known) - before}
        print(f"{name} {version}: {len(known) - before} texts", flush=True)
    chosen = sorted(known.items())[: options.count]
    if len(chosen) < options.count:
        parser.error(f"--count: expected at most {len(known)}, got {options.count}")
    whole = hashlib.sha256()
    with open(options.output, "w", encoding="utf-8") as file:
        for key, (name, text) in chosen:
            line = json.dumps({"_id": f"{name}-{key.hex()[:16]}", "text": text}, ensure_ascii=False) + "\n"
            whole.update(line.encode())
            file.write(line)
    taken = collections.Counter(name for _, (name, _) in chosen)
    for name, package in packages.items():
        package["taken"] = taken[name]
    words = sum(len(text.split()) for _, (_, text) in chosen) / len(chosen)
    found = {"texts": len(chosen), "words": words, "sha256": whole.hexdigest(), "packages": packages}
    print(f"{len(chosen)} of {len(known)} texts, {words:.1f} words on average, sha256 {whole.hexdigest()}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def sources(folder: Path) -> Iterator[tuple[str, str, str, Iterator[str]]]:
    """Name, version, checksum and texts of each package, and of the descriptions of all that apt knows."""
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Acquire::Languages": "en",
    }
    given = [f"-o{key}={value}" for key, value in settings.items()]
    if not list((folder / "lists").glob("*Translation-en*")):
        subprocess.run(["apt-get", "-q", *given, "update"], check=True)
    for name, (pattern, reader) in PACKAGES.items():
        if not list(folder.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "-q", *given, "download", name], check=True, cwd=folder)
        (file,) = folder.glob(f"{name}_*.deb")
        version = file.name.split("_")[1].replace("%3a", ":")
        checksum = hashlib.sha256(file.read_bytes()).hexdigest()
        yield name, version, checksum, (text for data in members(file, pattern) for text in reader(data))
    lists = sorted((folder / "lists").glob("*Translation-en*"))
    command = ["/usr/lib/apt/apt-helper", "cat-file", *lists]
    listing = subprocess.run(command, check=True, capture_output=True).stdout.decode()
    release = "".join(re.findall(r"^VERSION=\"(.*)\"$", Path("/etc/os-release").read_text(), flags=re.M))
    yield "descriptions", release, hashlib.sha256(listing.encode()).hexdigest(), descriptions(listing)


def members(package: Path, pattern: str) -> Iterator[bytes]:
    """The files of a package whose names match."""
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacked,
        tarfile.open(fileobj=unpacked.stdout, mode="r|") as files,
    ):
        for member in files:
            if member.isfile() and re.search(pattern, member.name):
                yield files.extractfile(member).read()


if __name__ == "__main__":
    main()
