"""Recipes of teachers: which encoder is trained on which questions, and on which collections it is evaluated."""

# ruff: noqa: RUF009 - `key` makes a field
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import Collection, QuestionPassages, load_collection, load_pairs
from ..errors import InputError, closest
from ..files import write_json
from ..models import PACKAGED, check_path, is_late_interaction, load_model, pooled_encoder
from ..ranking import compare_results
from ..ranking.significance import adjust
from ..retrieval import Evaluation, describe, evaluate_pair, table, write_evaluation
from ..token_cache import TokenCache
from ..training import fewer_layers, processes, train_retriever
from ..training.english import read_every
from ..training.negatives import Negatives
from .recipe import find_recipe, key, read_yaml, same_recipe

#: Keys of an entry of ``pairs``, of ``text`` and of ``collections``.
_PAIRS = ("pairs", "split", "max_pairs")
_TEXT = ("text", "max_pairs")
_COLLECTION = ("collection", "split", "queries", "documents")


@dataclasses.dataclass
class TeacherRecipe:
    """How a teacher is trained, and on which collections it is evaluated; every field is a key of a recipe file."""

    pairs: list[Any] = key(
        [], "English questions with passages: a list of specs, or of specs with split and max_pairs"
    )
    encoder: str = key(
        "packaged:multilingual-e5-small", "any encoder, or a late-interaction checkpoint to train on"
    )
    dim: int = key(128, "token dimension of the head")
    layers: int | None = key(
        None,
        "keep so many evenly spaced layers of a late-interaction encoder; they learn its tokens of pairs and text",
    )
    text: list[Any] = key(
        [],
        "more text for layers: a list of specs (of bitext both sides are taken), or of specs with max_pairs",
    )
    negatives: Any = key("bm25", "what finds hard negatives: bm25, model or none; or options of mining")
    dev_collection: Any = key("", "whose dev queries choose the checkpoint (default: the last is taken)")
    collections: dict[str, Any] = key({}, "test collections: a name for each, and its spec or options")
    scale: float = key(20.0, "of scores, the reciprocal of the temperature")
    freeze_embeddings: bool = key(True, "keep the word embedding table fixed")
    dropout: float | None = key(0.0, "in training; null for the encoder's own")
    interpolate: float = key(1.0, "weights between those before training (0) and after it (1), WiSE-FT")
    training: dict[str, Any] = key({}, "training arguments")
    question: str = key("", "the question that the recipe answers")


#: Keys of contrastive training, which a teacher with fewer layers has none of.
_CONTRASTIVE = ("dim", "negatives", "scale", "interpolate")
#: Types that YAML may give for a key.
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("encoder", "question"), (str,)),
    **dict.fromkeys(("collections", "training"), (dict,)),
    "negatives": (str, dict),
    "dev_collection": (str, dict),
    "pairs": (list, str),
    "dim": (int,),
    "layers": (int, type(None)),
    "text": (list, str),
    "scale": (int, float),
    "interpolate": (int, float),
    "freeze_embeddings": (bool,),
    "dropout": (float, int, type(None)),
}


def read_teacher(path: str | Path, changes: Mapping[str, Any] | None = None) -> TeacherRecipe:
    """Read and check a teacher's recipe; keys of ``changes`` win over the file's, those of ``training`` one by one.

    Raises
    ------
    InputError
        No such file, no YAML, an unknown key, with the nearest valid name.
    """
    file = find_recipe(path)
    try:
        raw = read_yaml(file.read_text(encoding="utf-8"))
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"recipe: {file}: {error}") from None
    if not isinstance(raw, dict) or not raw.get("pairs"):
        hint = (
            "; optical-rs experiment runs a recipe of systems"
            if isinstance(raw, dict) and "systems" in raw
            else ""
        )
        raise InputError(f"recipe: {file}: expected a mapping with a list 'pairs'{hint}")
    return make_teacher_recipe(raw, str(file), changes)


def make_teacher_recipe(
    raw: Mapping[str, Any], where: str, changes: Mapping[str, Any] | None = None
) -> TeacherRecipe:
    """A recipe of its keys, checked; ``where`` is named in errors."""
    keys = {f.name for f in dataclasses.fields(TeacherRecipe)}
    for given in raw:
        if given not in keys:
            raise InputError(f"{where}: unknown key '{given}'{closest(given, keys)}")
    changes = dict(changes or {})
    training = {**(raw.get("training") or {}), **(changes.pop("training", None) or {})}
    recipe = TeacherRecipe(**{**raw, **changes, "training": training})
    for name, types in _TYPES.items():
        value = getattr(recipe, name)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join("null" if t is type(None) else t.__name__ for t in types)
            raise InputError(f"{where}: {name}: expected {expected}, got {value!r}")
    recipe.pairs = [recipe.pairs] if isinstance(recipe.pairs, str) else recipe.pairs
    for entry in recipe.pairs:
        _options(entry, "pairs", _PAIRS, f"{where}: pairs")
    for name, entry in recipe.collections.items():
        _options(entry, "collection", _COLLECTION, f"{where}: collections: {name}")
        if not re.fullmatch(r"\w[\w.+-]*", str(name)):
            raise InputError(f"{where}: collections: {name!r} is not usable as the name of a folder")
    if recipe.dev_collection:
        _options(recipe.dev_collection, "collection", _COLLECTION, f"{where}: dev_collection")
    Negatives.of(recipe.negatives)
    if recipe.layers is not None:
        for name in _CONTRASTIVE:
            if name in raw or name in changes:
                raise InputError(f"{where}: {name}: takes no part in training layers; leave it out")
    recipe.text = [recipe.text] if isinstance(recipe.text, str) else recipe.text
    for entry in recipe.text:
        _options(entry, "text", _TEXT, f"{where}: text")
    if recipe.text and recipe.layers is None:
        raise InputError(f"{where}: text: is for layers; questions with passages go to pairs")
    return recipe


def _options(entry: Any, own: str, valid: Sequence[str], where: str) -> dict[str, Any]:
    options = {own: entry} if isinstance(entry, str) else entry
    if not isinstance(options, dict) or not options.get(own):
        raise InputError(f"{where}: expected a spec or a mapping with '{own}', got {entry!r}")
    for name in options:
        if name not in valid:
            raise InputError(f"{where}: unknown key '{name}'{closest(name, valid)}")
    count = options.get("max_pairs")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise InputError(f"{where}: max_pairs: expected at least 1, got {count!r}")
    return dict(options)


def _pairs(entry: Any) -> QuestionPassages:
    options = _options(entry, "pairs", _PAIRS, "pairs")
    loaded = load_pairs(options["pairs"], split=options.get("split", "train"))
    return loaded.take(range(min(len(loaded), options.get("max_pairs") or len(loaded))))


def _collection(entry: Any, split: str) -> Collection:
    options = _options(entry, "collection", _COLLECTION, "collections")
    loaded = load_collection(options["collection"], split=options.get("split", split))
    return loaded.sample(queries=options.get("queries"), documents=options.get("documents"))


@processes.led(lambda recipe, *_, **__: recipe.training, same=same_recipe, elsewhere={})
def make_teacher(
    recipe: TeacherRecipe,
    folder: Path,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    cache: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a teacher, ask it, and write both: a checkpoint that recipes take as ``teacher``, with ``report.json``.

    What it is compared with on the collections is the plain encoder, with one vector for each text (``pooled``), and for
    a teacher with fewer layers the one with all of them (``all-layers``).

    Parameters
    ----------
    recipe : TeacherRecipe
    folder : path
        The output folder, which is the checkpoint.
    overwrite : bool
        Replace a teacher of other settings.
    dry_run : bool
        Say what would be trained, and make nothing.
    cache : path, optional
        Of token embeddings.
    say : callable

    Returns
    -------
    dict
        ``record`` of training, and ``collections``: name → system → measures.

    Raises
    ------
    InputError
        As :func:`~optical_rs.training.train_retriever` or :func:`~optical_rs.training.fewer_layers`, and for
        collections that cannot be loaded.
    """
    pairs = [_pairs(entry) for entry in recipe.pairs]
    for part in pairs:
        say(str(part))
    dev = _collection(recipe.dev_collection, "dev") if recipe.dev_collection else None
    asked = {name: _collection(entry, "test") for name, entry in recipe.collections.items()}
    for name, collection in {**({"dev": dev} if dev else {}), **asked}.items():
        say(f"{name}: {collection}")
    if recipe.encoder not in PACKAGED:
        check_path(recipe.encoder, "encoder")
    if recipe.layers is not None and not is_late_interaction(recipe.encoder, "encoder"):
        raise InputError(
            f"encoder: expected a late-interaction checkpoint to take layers of, got {recipe.encoder}; train it first"
        )
    more = [_options(entry, "text", _TEXT, "text") for entry in recipe.text]
    texts = [text for o in more for text in read_every(o["text"], "text", o.get("max_pairs"))]
    if recipe.text:
        say(f"text: {len(texts):,}")
    if dry_run:
        return {}
    common: dict[str, Any] = {
        "dev": dev,
        "freeze_embeddings": recipe.freeze_embeddings,
        "dropout": recipe.dropout,
        "training": {"logging_strategy": "no", **recipe.training},
        "seed": int(recipe.training.get("seed") or 0),
        "folder": folder,
        "overwrite": overwrite,
        "cache": cache,
    }
    if recipe.layers is None:
        teacher = train_retriever(
            recipe.encoder,
            pairs,
            dim=recipe.dim,
            negatives=recipe.negatives,
            scale=recipe.scale,
            interpolate=recipe.interpolate,
            **common,
        )
    else:
        whole = load_model(recipe.encoder, argument="encoder")
        texts = [text for part in pairs for side in (part.questions, part.passages) for text in side] + texts
        names = [*(part.name for part in pairs), *(o["text"] for o in more)]
        teacher = fewer_layers(whole, recipe.layers, texts, base=recipe.encoder, sources=names, **common)
    found: dict[str, dict[str, Evaluation]] = {}
    if asked:
        before = (
            ("pooled", pooled_encoder(recipe.encoder)) if recipe.layers is None else ("all-layers", whole)
        )
        for system, model in (before, ("teacher", teacher)):
            tokens = TokenCache(model, cache)
            for name, collection in asked.items():
                say(f"{name}: evaluating {system}")
                found.setdefault(name, {})[system] = evaluate_pair(model, tokens, collection, "query")
    for name, systems in found.items():
        for system, evaluation in systems.items():
            write_evaluation(folder / "evaluation" / name / system, evaluation, tag=system)
    report: dict[str, Any] = {
        "record": teacher.optical_record,
        "recipe": dataclasses.asdict(recipe),
        "collections": {
            name: {system: describe(e.result, "map") for system, e in systems.items()}
            for name, systems in found.items()
        },
        "differences": _differences(found),
    }
    write_json(folder / "report.json", report)
    return report


def _differences(found: Mapping[str, Mapping[str, Evaluation]]) -> list[dict[str, Any]]:
    """The teacher's MAP minus that of what it is compared with, with intervals and corrected tests."""
    rows = []
    for name, systems in found.items():
        baseline = next(iter(systems))
        results = {system: systems[system].result for system in ("teacher", baseline)}
        if len(next(iter(results.values())).topics) > 1:
            compared = compare_results(results, baseline=baseline, test="randomisation").rows
            rows.append((name, next(row for row in compared if row.measure == "map")))
    corrected = adjust([row.p for _, row in rows])
    return [
        {
            "collection": name,
            "map": row.difference,
            "low": row.low,
            "high": row.high,
            "p": row.p,
            "p_adjusted": p,
        }
        for (name, row), p in zip(rows, corrected, strict=True)
    ]


def show_teacher(report: Mapping[str, Any]) -> str:
    """The tables of a report as text."""
    tables = [f"{name}\n{table(systems)}" for name, systems in report["collections"].items()]
    if report["differences"]:
        lines = [
            f"{row['collection']}: {row['map']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}], p {row['p_adjusted']:.4f}"
            for row in report["differences"]
        ]
        baseline = next(iter(next(iter(report["collections"].values()))))
        head = f"MAP, teacher minus {baseline}, 95 % interval, randomisation test, Holm correction over collections"
        tables.append("\n".join([head, *lines]))
    return "\n\n".join(tables)
