"""Cells without a student: zero-shot, the plain encoder, word alignment, translation, fusion."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..baselines import TranslationTable, Translator, bm25, psq, translate_words, translation_table
from ..errors import InputError
from ..files import read_run
from ..ranking import fuse
from ..retrieval import Evaluation, content_of, encode, evaluate_pair, evaluate_run, evaluate_tokens, texts_of
from .recipe import DEV, DICTIONARY, WEIGHTED, Cell
from .workbench import Workbench

#: Methods that read the bitext.
OF_BITEXT = ("psq", "bm25-translate", "nmt")
#: Weights that are tried on dev queries.
WEIGHTS = tuple(tenth / 10 for tenth in range(11))


def ask(bench: Workbench, cell: Cell, place: str) -> Evaluation:
    """Search one collection with a system that needs no student."""
    options = bench.recipe.systems[cell.system]
    collection = bench.asked(cell.system, cell.language)[place]
    method = {
        "zero-shot": _zero_shot,
        "pooled": _pooled,
        "oracle": _oracle,
        "bm25": _bm25,
        "psq": _psq,
        "bm25-translate": _bm25_translate,
        "nmt": _nmt,
        "fusion": _fusion,
    }[options["method"]]
    return method(bench, cell, options, place, collection)


def _zero_shot(bench, cell, options, place, collection) -> Evaluation:
    return bench.evaluate(bench.start, collection)


def _pooled(bench, cell, options, place, collection) -> Evaluation:
    tokens = bench.pooled(options.get("encoder", ""))
    return evaluate_pair(tokens.model, tokens, collection, bench.side)


def _oracle(bench, cell, options, place, collection) -> Evaluation:
    translated = bench.translations(cell.language, options)[place]
    by = options.get("by", "late")
    if by == "bm25":
        return evaluate_run(bm25(translated.queries, translated.documents, language="english"), translated)
    tokens = bench.english if by == "late" else bench.pooled(options.get("encoder", ""))
    return evaluate_pair(tokens.model, tokens, translated, "query")


def _table(bench: Workbench, options: Mapping[str, Any], language: str) -> TranslationTable:
    """Translations of the queries' words into the documents' language, whichever is the foreign one."""
    bitext, _ = bench.training_pairs(options, [language])
    table = translation_table(bitext.foreign, bitext.english)
    return table if bench.side == "query" else TranslationTable(table.english, table.foreign)


def _bm25(bench, cell, options, place, collection) -> Evaluation:
    own = {k: options[k] for k in ("ngrams", "k1", "b") if k in options}
    return evaluate_run(bm25(collection.queries, collection.documents, **own), collection)


def _psq(bench, cell, options, place, collection) -> Evaluation:
    own = {k: options[k] for k in ("cumulative", "k1", "b") if k in options}
    table = _table(bench, options, cell.language)
    return evaluate_run(psq(collection.queries, collection.documents, table, **own), collection)


def _translated(bench, cell, options, collection) -> dict[str, str]:
    texts = texts_of(collection, "query")
    model = options.get("translator", DICTIONARY)
    if model == DICTIONARY:
        made = translate_words(texts, _table(bench, options, cell.language))
    else:
        codes = options.get("codes") or {}
        pair = [codes.get(name, name) for name in (cell.language, "en")]
        source, target = pair if bench.side == "query" else reversed(pair)
        own = {k: options[k] for k in ("num_beams", "batch_size") if k in options}
        cache = bench.folder / "cache" / "translations.jsonl"
        made = Translator(model, source, target, cache=cache, **own)(texts)
    return dict(zip(collection.queries, made, strict=True))


def _bm25_translate(bench, cell, options, place, collection) -> Evaluation:
    queries = _translated(bench, cell, options, collection)
    stemmed = "english" if bench.side == "query" else None
    return evaluate_run(bm25(queries, collection.documents, language=stemmed), collection)


def _nmt(bench, cell, options, place, collection) -> Evaluation:
    queries = encode(bench.teacher, list(_translated(bench, cell, options, collection).values()), "query")
    documents = bench.english.tokens(texts_of(collection, "document"), "document")
    return evaluate_tokens(queries, documents, collection)


def _fusion(bench, cell, options, place, collection) -> Evaluation:
    runs, way = _runs(bench, cell, place), options.get("method_of_fusion", "rrf")
    if way == WEIGHTED:
        weight = chosen(bench, cell)["weight"]
        fused = fuse(runs, method="score", weights=[1 - weight, weight])
    else:
        fused = fuse(runs, method=way, weights=options.get("shares"))
    return evaluate_run(_as_run(fused), collection)


def _as_run(fused: Mapping[str, Mapping[str, float]]) -> dict[str, list[tuple[str, float]]]:
    return {query: list(found.items()) for query, found in fused.items()}


def _runs(bench: Workbench, cell: Cell, place: str) -> list[Path]:
    """The files of what a fusion is made of."""
    runs = []
    for part in parts_of(bench, cell):
        file = bench.folder / part.path / "evaluation" / place / "run.trec"
        if not file.exists():
            raise InputError(
                f"of: '{part.system}' has no run for {part.language or place}, seed {part.seed}: {file}"
            )
        runs.append(file)
    return runs


def chosen(bench: Workbench, cell: Cell) -> dict[str, float]:
    """What was chosen on dev queries: ``weight``, of a weighted fusion's second system (the first has the rest)."""
    options = bench.recipe.systems[cell.system]
    if options.get("method_of_fusion") != WEIGHTED:
        return {}
    dev = bench.asked(options["of"][0], cell.language)[DEV]
    runs = [read_run(file) for file in _runs(bench, cell, DEV)]

    def dev_map(weight: float) -> float:
        fused = fuse(runs, method="score", weights=[1 - weight, weight])
        return evaluate_run(_as_run(fused), dev, ("map",)).result.mean["map"]

    scores = {weight: dev_map(weight) for weight in WEIGHTS}
    # Of weights that are as good as each other, the most even one.
    best = max(WEIGHTS, key=lambda weight: (scores[weight], -abs(weight - 0.5)))
    return {"weight": best, "dev_map": scores[best]}


def content_of_method(bench: Workbench, cell: Cell) -> list[str]:
    """The content hash of what a method reads besides the bitext and the recipe's models."""
    options, found = bench.recipe.systems[cell.system], []
    if options["method"] == "oracle":
        found = [content_of(c) for c in bench.translations(cell.language, options).values()]
    if options["method"] == "pooled" or options.get("by") == "pooled":
        found.append(bench.pooled(options.get("encoder", "")).fingerprint)
    if options.get("method_of_fusion") == WEIGHTED:
        found.append(content_of(bench.asked(options["of"][0], cell.language)[DEV]))
    return found


def parts_of(bench: Workbench, cell: Cell) -> list[Cell]:
    """The cells whose runs a fusion puts together."""
    found = []
    for part in bench.recipe.systems[cell.system].get("of") or []:
        seeds = bench.recipe.seeds_of(part, cell.language)
        found.append(Cell(part, cell.language, cell.seed if cell.seed in seeds else seeds[0]))
    return found
