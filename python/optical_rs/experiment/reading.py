"""Reading recipes: what is wrong with one is found before anything is loaded or written."""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, closest
from ..losses import options_of, resolve_loss
from ..similarity.columns import DTYPES
from ..training import arguments
from ..training.anchor import check_anchor
from ..training.batches import ORDERS
from ..training.distillation import check_passages
from ..training.english import specs_of
from ..training.hybrid import OPTIONS as HYBRID
from .recipe import (
    DEV,
    DISTILLATION,
    FUSIONS,
    METHODS,
    OF_BITEXT,
    ORACLES,
    PAIRS,
    RESERVED,
    RETRIEVAL,
    SIDES,
    WEIGHTED,
    Recipe,
    find_recipe,
    read_yaml,
)

#: Types that YAML may give for a key of a recipe.
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(
        ("bitext", "collection", "dev_collection", "teacher", "student", "side", "question"), (str,)
    ),
    **dict.fromkeys(("baseline", "token_dtype", "foreign_column", "english_column", "head_text"), (str,)),
    **dict.fromkeys(("systems", "training", "out_of_domain", "collections"), (dict,)),
    **dict.fromkeys(("head_languages", "translation"), (list,)),
    "languages": (dict,),
    "dim": (int,),
    "max_pairs": (int, type(None)),
    "freeze_embeddings": (bool,),
    "dropout": (float, int, type(None)),
    "seeds": (int, dict),
}


def read_recipe(path: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe.

    Parameters
    ----------
    path : path or str
        See :func:`find_recipe`.
    changes : dict, optional
        Keys that win over the file's; those of ``training`` one by one.

    Raises
    ------
    InputError
        No such file, no YAML, an unknown key, system option, loss or language, with the nearest valid name.
    """
    file = find_recipe(path)
    try:
        raw = read_yaml(file.read_text(encoding="utf-8"))
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"recipe: {file}: {error}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("systems"), dict) or not raw["systems"]:
        hint = "; optical-rs teacher trains a teacher" if isinstance(raw, dict) and "pairs" in raw else ""
        raise InputError(f"recipe: {file}: expected a mapping with a mapping 'systems'{hint}")
    return make_recipe(raw, str(file), changes)


def make_recipe(raw: Mapping[str, Any], where: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe of its keys, checked; ``where`` is named in errors."""
    keys = {f.name for f in dataclasses.fields(Recipe)}
    for given in raw:
        if given not in keys:
            raise InputError(f"{where}: unknown key '{given}'{closest(given, keys)}")
    changes = dict(changes or {})
    training = {**(raw.get("training") or {}), **(changes.pop("training", None) or {})}
    recipe = Recipe(**{**raw, **changes, "training": training})
    if isinstance(recipe.languages, list):
        recipe.languages = {"languages": recipe.languages} if recipe.languages else {}
    check_recipe(recipe, where)
    recipe.head_languages = recipe.head_languages or recipe.every_language
    recipe.baseline = recipe.baseline or next(iter(recipe.systems))
    return recipe


def check_recipe(recipe: Recipe, where: str) -> None:
    """Raise for the first thing that is wrong with a recipe, and fill in what its systems leave out."""
    for name, types in _TYPES.items():
        value = getattr(recipe, name)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join("null" if t is type(None) else t.__name__ for t in types)
            raise InputError(f"{where}: {name}: expected {expected}, got {value!r}")
    if recipe.side not in SIDES:
        raise InputError(f"{where}: side: unknown side '{recipe.side}'{closest(recipe.side, SIDES)}")
    if recipe.token_dtype not in DTYPES:
        raise InputError(
            f"{where}: token_dtype: unknown dtype '{recipe.token_dtype}'{closest(recipe.token_dtype, DTYPES)}"
        )
    if not recipe.bitext:
        raise InputError(f"{where}: bitext: expected sentence pairs, got nothing; see docs/how-to/data.md")
    for name in ("bitext", "collection", "dev_collection"):
        try:
            getattr(recipe, name).format(language="")
        except (KeyError, IndexError, ValueError):
            raise InputError(
                f"{where}: {name}: expected no other place than {{language}}, got '{getattr(recipe, name)}'"
            ) from None
    names = recipe.every_language
    if len(set(names)) != len(names):
        raise InputError(f"{where}: languages: a language is in two groups")
    for name in names:
        if name and not re.fullmatch(r"\w[\w.+-]*", name):
            raise InputError(f"{where}: languages: {name!r} is not usable as the name of a folder")
    seeds = recipe.seeds
    given = seeds if isinstance(seeds, dict) else dict.fromkeys(recipe.groups, seeds)
    for group in recipe.groups:
        if group not in given or not isinstance(given[group], int) or given[group] < 1:
            raise InputError(
                f"{where}: seeds: expected a number of seeds for '{group}', got {given.get(group)}"
            )
    for language in recipe.out_of_domain:
        if language not in names:
            raise InputError(f"{where}: out_of_domain: no language '{language}'{closest(language, names)}")
    _check_places(recipe, where)
    arguments.check(recipe.training, f"{where}: training")
    for name, options in recipe.systems.items():
        if not isinstance(options, dict | None):
            raise InputError(f"{where}: system '{name}': expected options as a mapping, got {options!r}")
        recipe.systems[name] = options = dict(options or {})
        if name in RESERVED or not re.fullmatch(r"\w[\w.+ -]*", name):
            raise InputError(f"{where}: system '{name}': not usable as the name of a folder")
        _check_system(recipe, f"{where}: system '{name}'", options)
    for name in [recipe.baseline, *recipe.translation]:
        if name and name not in recipe.systems:
            raise InputError(f"{where}: no system '{name}'{closest(name, recipe.systems)}")


def _check_places(recipe: Recipe, where: str) -> None:
    sample = ("collection", "queries", "documents", "split")
    for kind, places, valid in (
        ("out_of_domain", recipe.out_of_domain, sample),
        ("collections", recipe.collections, (*sample, "languages")),
    ):
        for name, given in places.items():
            short = kind == "collections" and isinstance(given, str)
            options = {"collection": given} if short else given
            if not isinstance(options, dict) or not options.get("collection"):
                raise InputError(f"{where}: {kind}: {name}: expected a collection, got {given!r}")
            for key in options:
                if key not in valid:
                    raise InputError(f"{where}: {kind}: {name}: unknown key '{key}'{closest(key, valid)}")
            if name == DEV or not re.fullmatch(r"\w[\w.+-]*", name):
                raise InputError(f"{where}: {kind}: {name!r} is not usable as the name of a folder")


def _check_system(recipe: Recipe, where: str, options: dict[str, Any]) -> None:
    loss, method = options.get("loss"), options.get("method")
    if loss is not None:
        if loss == RETRIEVAL:
            valid = {"loss", *HYBRID, *PAIRS, *(set(DISTILLATION) - set(OF_BITEXT))}
        else:
            try:
                kind = resolve_loss(loss)
            except InputError as error:
                raise InputError(f"{where}: {str(error).removeprefix('loss: ')}") from None
            valid = {"loss", *options_of(kind), *PAIRS, *DISTILLATION}
    else:
        method = options["method"] = method or "zero-shot"
        if method not in METHODS:
            raise InputError(f"{where}: unknown method '{method}'{closest(method, METHODS)}")
        valid = {"method", *METHODS[method]}
    for key in options:
        if key not in valid:
            raise InputError(f"{where} has no option '{key}'{closest(key, valid)}")
    if options.get("order", "mixed") not in ORDERS:
        raise InputError(f"{where}: unknown order '{options['order']}'{closest(options['order'], ORDERS)}")
    share = options.get("interpolate", 1.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise InputError(f"{where}: interpolate: expected a share in 0..1, got {options['interpolate']}")
    arguments.check(options.get("training") or {}, f"{where}: training")
    if options.get("anchor") is not None:
        try:
            check_anchor(options["anchor"])
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    if options.get("passages") is not None:
        try:
            check_passages(loss, recipe.side, specs_of(options["passages"], "passages"))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    _check_mixture(where, options)
    for language in options.get("languages") or []:
        if language not in recipe.every_language:
            raise InputError(
                f"{where}: languages: the recipe has no '{language}'{closest(language, recipe.every_language)}"
            )
    for other in options.get("of") or []:
        if other not in recipe.systems:
            raise InputError(f"{where}: of: no system '{other}'{closest(other, recipe.systems)}")
        if (recipe.systems[other] or {}).get("method") == "fusion":
            raise InputError(f"{where}: of: '{other}' is a fusion itself; name what it is made of")
    if method == "fusion":
        _check_fusion(recipe, where, options)
    if method == "oracle":
        by = options.get("by", "late")
        if by not in ORACLES:
            raise InputError(f"{where}: by: unknown way '{by}'{closest(by, ORACLES)}")
        if recipe.search_side != "query":
            raise InputError(
                f"{where}: human translations of queries need the side 'query', got '{recipe.side}'"
            )


def _check_fusion(recipe: Recipe, where: str, options: Mapping[str, Any]) -> None:
    parts, way = options.get("of") or [], options.get("method_of_fusion", "rrf")
    if len(parts) < 2:
        raise InputError(f"{where}: of: expected two systems or more")
    if way not in FUSIONS:
        raise InputError(f"{where}: method_of_fusion: unknown way '{way}'{closest(way, FUSIONS)}")
    shares = options.get("shares")
    if shares is not None:
        if way != "score":
            raise InputError(f"{where}: shares: only 'method_of_fusion: score' has them, got '{way}'")
        numbers = isinstance(shares, list) and all(
            type(w) in (int, float) and 0 <= w < math.inf for w in shares
        )
        if not numbers or len(shares) != len(parts) or not any(shares):
            raise InputError(
                f"{where}: shares: expected {len(parts)} numbers >= 0, one for each system, got {shares!r}"
            )
    if way != WEIGHTED:
        return
    if len(parts) > 2:
        raise InputError(f"{where}: of: a weight is chosen for two systems, got {len(parts)}")
    for part in parts:
        if (recipe.systems[part] or {}).get("method") in ("fusion", "oracle"):
            raise InputError(
                f"{where}: of: '{part}' cannot be evaluated on dev queries; name a system that is neither a fusion nor an oracle"
            )


def _check_mixture(where: str, options: Mapping[str, Any]) -> None:
    """Proportions, and each stage of a schedule, are a share for each bitext."""
    given = options.get("bitext")
    bitexts = len(given) if isinstance(given, list) else 1
    if "schedule" in options:
        for other in ("proportions", "mine"):
            if other in options:
                raise InputError(f"{where}: schedule: says what each epoch is made of; leave '{other}' out")
        stages = options["schedule"]
        if not isinstance(stages, list) or not stages:
            raise InputError(f"{where}: schedule: expected a list of stages, got {stages!r}")
    else:
        stages = [options["proportions"]] if options.get("proportions") is not None else []
    for shares in stages:
        if "proportions" in options and isinstance(shares, list) and shares and not shares[0] > 0:
            raise InputError(
                f"{where}: proportions: expected a share above 0 of the first bitext, got {shares!r}"
            )
        if not isinstance(shares, list) or len(shares) != bitexts:
            name = "schedule" if "schedule" in options else "proportions"
            raise InputError(f"{where}: {name}: expected {bitexts}, one for each bitext, got {shares!r}")
