"""Cells without a student: zero-shot, word alignment, translation, fusion."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..baselines import TranslationTable, Translator, bm25, psq, translate_words, translation_table
from ..errors import InputError
from ..ranking import fuse
from ..retrieval import Evaluation, encode, evaluate_run, evaluate_tokens, texts_of
from .bench import Workbench
from .recipe import DICTIONARY, Cell

#: Methods that read the bitext.
OF_BITEXT = ("psq", "bm25-translate", "nmt")


def ask(bench: Workbench, cell: Cell, place: str) -> Evaluation:
    """Search one collection with a system that needs no student."""
    options = bench.recipe.systems[cell.system]
    collection = bench.collections(cell.language)[place]
    method = {
        "zero-shot": _zero_shot,
        "psq": _psq,
        "bm25-translate": _bm25_translate,
        "nmt": _nmt,
        "fusion": _fusion,
    }[options["method"]]
    return method(bench, cell, options, place, collection)


def _zero_shot(bench, cell, options, place, collection) -> Evaluation:
    return bench.evaluate(bench.start, collection)


def _table(bench: Workbench, options: Mapping[str, Any], language: str) -> TranslationTable:
    """Translations of the queries' words into the documents' language, whichever is the foreign one."""
    bitext, _ = bench.training_pairs(options, [language])
    table = translation_table(bitext.foreign, bitext.english)
    return table if bench.side == "query" else TranslationTable(table.english, table.foreign)


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
    runs: list[Path] = []
    for part in parts_of(bench, cell):
        file = bench.folder / part.path / "evaluation" / place / "run.trec"
        if not file.exists():
            raise InputError(
                f"of: '{part.system}' has no run for {part.language or place}, seed {part.seed}: {file}"
            )
        runs.append(file)
    fused = fuse(runs, method=options.get("method_of_fusion", "rrf"))
    return evaluate_run({query: list(found.items()) for query, found in fused.items()}, collection)


def parts_of(bench: Workbench, cell: Cell) -> list[Cell]:
    """The cells whose runs a fusion puts together."""
    found = []
    for part in bench.recipe.systems[cell.system].get("of") or []:
        seeds = bench.recipe.seeds_of(part, cell.language)
        found.append(Cell(part, cell.language, cell.seed if cell.seed in seeds else seeds[0]))
    return found
