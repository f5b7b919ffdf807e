"""Model cards: what a stranger has to know of a model before using it, written from the record beside its checkpoint."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.sources import find
from ..record import record_of, teacher_of
from .packaged import NAME as PACKAGED

#: Base models that need no hub, as the hub knows them.
_ON_HUB = {PACKAGED: "intfloat/multilingual-e5-small"}
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
    """
    folder = Path(folder)
    record = record_of(folder)
    name, teacher = name or str(folder), teacher or teacher_of(folder) or ""
    languages = [code for code in re.split(r"[,+\s]+", language or languages_of(record)) if code]
    parts = [
        _front(record, languages, licence),
        _what(record, name, teacher, languages),
        _use(record, name, teacher),
        _results(folder),
        _training(folder, record, teacher),
        _limits(record, teacher, licence),
    ]
    card = "\n\n".join(part for part in parts if part) + "\n"
    (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")
    return card


def shown(spec: str) -> str:
    """A model or text as strangers may see it: a published name as it is, of a path the last part alone."""
    local = os.path.isabs(spec) or spec.startswith((".", "~")) or os.path.exists(spec) or spec.count("/") > 1
    return Path(spec).name if local and find(spec) is None else _ON_HUB.get(spec, spec)


def languages_of(record: Mapping[str, Any]) -> str:
    """The language that a record names, or that of a published source (``mafand:hau``)."""
    named = str(record.get("language") or "")
    spec = str(record.get("bitext") or "")
    if named or find(spec) is None:
        return named
    return re.split("[/@]", spec.partition(":")[2])[0]


def _front(record: Mapping[str, Any], languages: list[str], licence: str) -> str:
    base = shown(str(record.get("base") or ""))
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
    base = shown(str(record.get("base") or "")) or "not recorded"
    if record.get("side") and teacher:
        role = "documents" if record["side"] == "document" else "queries"
        what = (
            f"A late-interaction (ColBERT-style) model for cross-lingual retrieval. This **student** encodes {role} in "
            f"another language into the space of its English teacher, `{shown(teacher)}`, which encodes the English side. "
            "A text becomes one vector for each token; scores are MaxSim."
        )
    else:
        what = (
            "A late-interaction (ColBERT-style) model. It encodes queries and documents: a text becomes one vector for "
            "each token, and scores are MaxSim."
        )
    return (
        f"{title}\n\n{what}\n\n- Base model: `{base}`\n- Languages: {spoken}; English on the teacher's side"
    )


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
    rows = []
    for file in sorted((folder / "evaluation").glob("**/metrics.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        low, high = found.get("map_interval", (None, None))
        interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
        others = (f"{found[m]:.3f}" if m in found else "" for m in ("ndcg_cut_10", "recall_100"))
        cells = [
            file.parent.relative_to(folder / "evaluation").as_posix(),
            f"{found['map']:.3f}{interval}",
            *others,
        ]
        rows.append("| " + " | ".join(cells) + " |")
    if not rows:
        return "## Results\n\nNo evaluation is recorded beside this checkpoint. Measure it on your own queries first."
    return "\n".join(
        [
            "## Results",
            "",
            "| collection | MAP [95 % interval] | nDCG@10 | recall@100 |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            "Means over test queries, by trec_eval's measures, with a bootstrap interval over queries. "
            "They are of one training run.",
        ]
    )


def _training(folder: Path, record: Mapping[str, Any], teacher: str) -> str:
    system = record.get("system")
    options = dict(record.get("options") or (system if isinstance(system, Mapping) else {}))
    lines = []
    if bitext := str(record.get("bitext") or ""):
        source = find(bitext)
        about = (
            f" ({source[0].title.split(', or several')[0].split(' (`')[0]}; licence {source[0].licence})"
            if source
            else ""
        )
        lines.append(
            f"Text: `{shown(bitext)}`{about}"
            + (f", {record['pairs']:,} pairs." if "pairs" in record else ".")
        )
    elif "pairs" in record:
        lines.append(f"Text: {record['pairs']:,} pairs.")
    if loss := str(options.pop("loss", "") or ""):
        name = loss.rpartition(":")[2].partition("@")[0]
        lines.append(f"Loss: `{name}`" + (f", {_LOSSES[name]}." if name in _LOSSES else "."))
    if teacher:
        lines.append(f"Teacher: `{shown(teacher)}`, whose weights stayed fixed.")
    if (share := options.pop("interpolate", None)) is not None:
        lines.append(f"Weights: interpolated between start (0) and trained (1) at {share:g}.")
    if options:
        said = ", ".join(
            f"{key} {value}" for key, value in options.items() if isinstance(value, str | int | float)
        )
        lines.append(f"Options: {said}." if said else "")
    if "steps" in record:
        took = f", {record['train_seconds'] / 60:.0f} minutes" if record.get("train_seconds", 0) >= 60 else ""
        lines.append(f"Training: {record['steps']:,} steps{took}.")
    if "dev_map" in record:
        lines.append(f"Checkpoint: chosen by MAP of dev queries, {record['dev_map']:.3f}.")
    if not lines:
        lines.append("A closed-form head on the base model: no weight was trained.")
    versions = record.get("versions") or {}
    if versions:
        lines.append("Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".")
    if record:
        lines.append(
            f"`optical.json` beside the weights has the full record. Made with [optical_rs]({_PROJECT})."
        )
    return "## Training\n\n" + "\n".join(f"- {line}" for line in lines if line)


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
