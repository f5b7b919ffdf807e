"""Model cards: what a stranger has to know of a model before using it, written from the record beside its checkpoint."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.sources import find
from ..errors import InputError
from ..record import record_of, teacher_in
from .packaged import PACKAGED

_PROJECT = "https://github.com/optical-rs/optical_rs"
#: What a loss compares: by its name in recipes, and by its class.
_LOSSES = {
    name: what
    for names, what in {
        (
            "optical",
            "OpticalLoss",
        ): "optimal transport between the tokens of a sentence and the teacher's of its "
        "translation (OPTICAL)",
        ("pooled-mse", "PooledMSELoss"): "mean squared error between mean token vectors",
        ("TokenMSELoss",): "mean squared error between the tokens of the same text",
        ("greedy", "GreedyAlignmentLoss"): "each token's distance to its nearest token of the translation",
        ("contrastive", "BitextContrastiveLoss"): "contrastive MaxSim over the batch",
        (
            "translate-distill",
            "TranslateDistillLoss",
        ): "divergence between MaxSim scores of the student and of the teacher",
    }.items()
    for name in names
}


def write_card(
    folder: str | os.PathLike[str],
    record: Mapping[str, Any] | None = None,
    *,
    name: str = "",
    teacher: str = "",
    language: str = "",
    licence: str = "",
) -> str:
    """Write ``README.md`` beside a checkpoint: the model's card.

    Parameters
    ----------
    folder : path
        A student, as training saves it, or a teacher.
    record : dict, optional
        What made it; that beside the checkpoint by default.
    name : str
        What examples load: the hub id. The folder by default.
    teacher : str
        The same of the teacher; as the record says by default.
    language : str
        ISO 639 codes of the foreign side, separated by commas; those of the training text by default.
    licence : str
        As the hub spells it (``apache-2.0``). None is claimed by default: the weights are made of a base model and text,
        and both have licences of their own.

    Returns
    -------
    str
        The card.

    Raises
    ------
    InputError
        No such folder; a record or an evaluation that is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"folder: no such folder: {folder}")
    record = record_of(folder) if record is None else record
    name, teacher = name or str(folder), teacher or teacher_in(record, folder) or ""
    languages = [code for code in re.split(r"[,+\s]+", language) if code] or _languages(record)
    parts = [
        _front(record, languages, licence),
        _what(record, name, teacher, languages),
        _use(record, name, teacher),
        _results(folder),
        _training(record, teacher),
        _limits(record, teacher, licence),
    ]
    card = "\n\n".join(part for part in parts if part) + "\n"
    (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")
    return card


def origin(base: str, texts: Sequence[str]) -> dict[str, Any]:
    """What a record says of a base model and of training text: names that strangers may see.

    Published names stay as they are. Of a path only the last part is kept: others say nothing to a stranger, and
    may say too much.

    Examples
    --------
    >>> origin("packaged:multilingual-e5-small", ["mafand:hau", "/home/me/pairs.tsv"])
    {'base': 'intfloat/multilingual-e5-small', 'bitext': ['mafand:hau', 'pairs.tsv']}
    """
    local = os.path.isabs(base) or base.startswith((".", "~", "runs/")) or os.path.exists(base)
    model = Path(base).name if local or base.count("/") > 1 else PACKAGED.get(base, base)
    found = {"base": model, "bitext": [_published(text) for text in texts if text]}
    return {key: value for key, value in found.items() if value}


def _published(spec: str) -> str:
    known = find(spec)
    if known is None:
        return spec if spec.startswith("hf:") else Path(spec).name
    rest = known[1]
    path = os.path.isabs(rest) or os.path.exists(rest)
    return f"{known[0].name}:{Path(rest).name}" if path else spec


def _texts(record: Mapping[str, Any]) -> list[str]:
    """The training text that a record names."""
    given = record.get("bitext") or []
    return [str(text) for text in ([given] if isinstance(given, str) else given)]


def _languages(record: Mapping[str, Any]) -> list[str]:
    """The languages of a student, as far as published sources name them (``mafand:hau``)."""
    if not record.get("side"):
        return []
    named = str(record.get("language") or "")
    specs = [text.partition(":")[2] for text in _texts(record) if find(text)]
    return list(
        dict.fromkeys(
            [named] if named else [c for s in specs for c in re.split("[/@]", s)[0].split("+") if c]
        )
    )


def _front(record: Mapping[str, Any], languages: list[str], licence: str) -> str:
    base = str(record.get("base") or "")
    lines = ["---", "library_name: sentence-transformers", "pipeline_tag: feature-extraction"]
    if languages:
        lines.append(f"language: {json.dumps([*dict.fromkeys([*languages, 'en'])])}")
    if licence:
        lines.append(f"license: {json.dumps(licence)}")
    if base.count("/") == 1:
        lines.append(f"base_model: {json.dumps(base)}")
    tags = ["late-interaction", "multi-vector", "colbert", "cross-lingual-retrieval", "optical_rs"]
    return "\n".join([*lines, f"tags: {json.dumps(tags)}", "---"])


def _what(record: Mapping[str, Any], name: str, teacher: str, languages: list[str]) -> str:
    title = f"# {name if name.count('/') == 1 else Path(name).name}"
    spoken = ", ".join(languages) or "not recorded"
    base = str(record.get("base") or "") or "not recorded"
    if record.get("side") and teacher:
        role = "documents" if record["side"] == "document" else "queries"
        what = (
            f"A late-interaction (ColBERT-style) model for cross-lingual retrieval. This **student** encodes {role} in "
            f"another language into the space of its English teacher, `{_shown(teacher)}`, which encodes the English side. "
            "A text becomes one vector for each token; scores are MaxSim."
        )
    else:
        what = (
            "A late-interaction (ColBERT-style) model. It encodes queries and documents: a text becomes one vector for "
            "each token, and scores are MaxSim."
        )
    facts = [f"- Base model: `{base}`"]
    if record.get("side"):
        facts.append(f"- Languages: {spoken}; English on the teacher's side")
    return f"{title}\n\n{what}\n\n" + "\n".join(facts)


def _use(record: Mapping[str, Any], name: str, teacher: str) -> str:
    alone = not teacher or not record.get("side")
    queries = "teacher" if record.get("side") == "document" and not alone else "student"
    documents = "student" if alone or record.get("side") != "query" else "teacher"
    loads = [f'student = MultiVectorEncoder("{name}")']
    if not alone:
        loads.append(f'teacher = MultiVectorEncoder("{teacher}")')
    warning = (
        ""
        if alone
        else "\n\nThe two models belong together: the English side is encoded by the teacher, never by the student."
    )
    by_role = {"student": name, "teacher": teacher}
    return "\n".join(
        [
            "## Use" + warning,
            "",
            "With sentence-transformers 6.1 or newer:",
            "",
            "```python",
            "from sentence_transformers import MultiVectorEncoder",
            "",
            *loads,
            f'queries = {queries}.encode_query(["..."])',
            f'documents = {documents}.encode_document(["...", "..."])',
            "scores = student.similarity(queries, documents)",
            "```",
            "",
            "With PyLate, after `optical-rs export --format pylate --model "
            f"{name} --output for-pylate` (`pip install 'optical_rs[export]'`):",
            "",
            "```python",
            "from pylate import models",
            "",
            'model = models.ColBERT("for-pylate")',
            'queries = model.encode(["..."], is_query=True, prompt_name="query")',
            "```",
            "",
            "On a small machine without torch (`pip install 'optical_rs[serve]'` there):",
            "",
            "```console",
            f"$ optical-rs export --model {by_role[queries]} --output for-queries",
            *(
                [f"$ optical-rs export --model {by_role[documents]} --output for-documents"]
                if documents != queries
                else []
            ),
            "$ optical-rs index --model "
            f"{'for-documents' if documents != queries else 'for-queries'} --documents documents.tsv --output index",
            "$ optical-rs search --model for-queries --index index --queries queries.tsv",
            "```",
        ]
    )


def _results(folder: Path) -> str:
    rows, intervals = [], False
    for file in sorted((folder / "evaluation").glob("**/metrics.json")):
        place = file.parent.relative_to(folder / "evaluation").as_posix()
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            value, interval = f"{found['map']:.3f}", found.get("map_interval") or ()
            if interval:
                value, intervals = f"{value} [{interval[0]:.3f}, {interval[1]:.3f}]", True
            others = [f"{found[m]:.3f}" if m in found else "" for m in ("ndcg_cut_10", "recall_100")]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise InputError(f"folder: {file} is damaged ({type(error).__name__}: {error})") from None
        rows.append("| " + " | ".join([place, value, *others]) + " |")
    if not rows:
        return "## Results\n\nNo evaluation is recorded beside this checkpoint. Measure it on your own queries first."
    note = "Means over the queries of a collection, by trec_eval's measures, of one training run."
    if intervals:
        note += " Intervals are by the bootstrap over queries."
    head = ["| collection | MAP [95 % interval] | nDCG@10 | recall@100 |", "| --- | --- | --- | --- |"]
    return "\n".join(["## Results", "", *head, *rows, "", note])


def _training(record: Mapping[str, Any], teacher: str) -> str:
    system = record.get("system")
    options = dict(record.get("options") or (system if isinstance(system, Mapping) else {}))
    lines = []
    count = f"{record['pairs']:,} pairs" if "pairs" in record else ""
    texts = [_text(text) for text in _texts(record)]
    if said := ", ".join([*texts, *([count] if count else [])]):
        lines.append(f"Text: {said}.")
    if loss := str(options.pop("loss", "") or ""):
        name = loss.rpartition(":")[2].partition("@")[0]
        lines.append(f"Loss: `{name}`" + (f", {_LOSSES[name]}." if name in _LOSSES else "."))
    if teacher:
        lines.append(f"Teacher: `{_shown(teacher)}`, whose weights stayed fixed.")
    if (share := options.pop("interpolate", None)) is not None:
        lines.append(f"Weights: interpolated between start (0) and trained (1) at {share:g}.")
    # Text among them may be a path; the words that losses take are not told from it.
    said = ", ".join(f"{key} {value}" for key, value in options.items() if isinstance(value, int | float))
    if said:
        lines.append(f"Options: {said}.")
    if "steps" in record:
        took = f", {record['train_seconds'] / 60:.0f} minutes" if record.get("train_seconds", 0) >= 60 else ""
        lines.append(f"Training: {record['steps']:,} steps{took}.")
    if "dev_map" in record:
        lines.append(f"MAP of dev queries: {record['dev_map']:.3f}.")
    if not lines and record.get("made_of") and record.get("base"):
        lines.append("A closed-form head on the base model: no weight was trained.")
    versions = record.get("versions") or {}
    if versions:
        lines.append("Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".")
    if record:
        lines.append(
            f"`optical.json` beside the weights has the full record. Made with [optical_rs]({_PROJECT})."
        )
    return "## Training\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _text(name: str) -> str:
    """A training text with what its source says of it."""
    source = find(name)
    if source is None:
        return f"`{name}`"
    title = source[0].title.split(", or several")[0].split(" (`")[0]
    return f"`{name}` ({title}; licence {source[0].licence})"


def _shown(model: str) -> str:
    """A model as a card names it: a hub id, or the last part of a path."""
    return (
        Path(model).name if os.path.isabs(model) or os.path.exists(model) or model.count("/") > 1 else model
    )


def _limits(record: Mapping[str, Any], teacher: str, licence: str) -> str:
    lines = [
        "Accuracy outside the domain of the training text can be lower than that of the base model; measure it."
    ]
    if teacher and record.get("side"):
        lines.append(
            "Token vectors of another teacher lie in another space: an index made by one cannot be searched here."
        )
    lines.append(
        "One vector a token takes more space than one vector a text: some 128 numbers for each token."
    )
    if not licence:
        lines.append("The licences of the base model and of the training text hold for these weights.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)
