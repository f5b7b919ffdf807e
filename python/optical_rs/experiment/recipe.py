"""Recipes: which systems are trained on which pairs, and evaluated on which collections. The same for ``optical-rs train`` and ``optical-rs experiment``."""

# ruff: noqa: RUF009 - `key` makes a field
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, closest, require
from ..fingerprint import of_settings

SIDES = ("query", "document", "both")
#: What a system may be besides a loss, and the options of each.
METHODS = {
    "zero-shot": ("languages",),
    # The plain encoder, one vector of a text: the student's by default, or another.
    "pooled": ("languages", "encoder"),
    # Human translations of the queries, in the documents' language.
    "oracle": ("languages", "queries", "by", "encoder"),
    # The foreign queries as they are.
    "bm25": ("languages", "ngrams", "k1", "b"),
    "psq": ("languages", "seeds", "bitext", "max_pairs", "cumulative", "k1", "b"),
    "bm25-translate": ("languages", "seeds", "bitext", "translator", "codes", "num_beams", "batch_size"),
    "nmt": ("languages", "seeds", "bitext", "translator", "codes", "num_beams", "batch_size"),
    "fusion": ("languages", "of", "method_of_fusion", "shares"),
}
#: How human translations are searched: by the teacher's tokens, by the plain encoder's vector, or by words.
ORACLES = ("late", "pooled", "bm25")
#: How a fusion puts runs together: fuse's own ways, or scores with a weight that is chosen on dev queries.
WEIGHTED = "weighted"
FUSIONS = ("rrf", "score", WEIGHTED)
#: The translator that goes word by word, with the alignments of the bitext.
DICTIONARY = "dictionary"
#: The loss that trains on texts in several languages, not on sentence pairs: hybrid batches.
RETRIEVAL = "retrieval"
#: Options of trained systems: which pairs, in which languages and seeds.
PAIRS = ("bitext", "proportions", "joint", "languages", "seeds", "max_pairs")
#: Options of trained systems that a :class:`~optical_rs.training.Distillation` takes.
DISTILLATION = (
    "schedule",
    "order",
    "interpolate",
    "mlm",
    "mine",
    "margin",
    "anchor",
    "passages",
    "adapter_rank",
    "freeze_layers",
    "training",
)
#: Those that order or find sentence pairs, which hybrid batches do not have.
OF_BITEXT = ("order", "schedule", "mine", "margin")
#: The places of a recipe's own test collection, and of another domain's.
IN_DOMAIN, OUT_OF_DOMAIN = "in-domain", "out-of-domain"
#: The place of dev queries, on which only the systems of a weighted fusion are evaluated.
DEV = "dev"
#: Names of folders in an output folder that are not systems.
RESERVED = ("teacher", "start", "cache")
#: The recipes that come along.
PACKAGED_RECIPES = Path(__file__).parent.parent / "recipes"


def key(default: Any, text: str) -> Any:
    """A field of a recipe, with its help."""
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata={"help": text})
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass
class Recipe:
    """Which systems are trained on which pairs, and evaluated on which collections; every field is a key of a recipe file.

    ``{language}`` in ``bitext`` and in the names of collections stands for each of ``languages``.
    """

    bitext: str = key("", "sentence pairs: a file, or a source such as mafand:hau; see docs/how-to/data.md")
    collection: str = key("", "test collection; nothing is evaluated without one")
    collections: dict[str, Any] = key(
        {}, "more test collections: a name for each, and its spec, or its spec with options"
    )
    dev_collection: str = key(
        "", "collection whose dev queries choose checkpoints (default: the collection, or held-out pairs)"
    )
    teacher: str = key(
        "packaged:multilingual-e5-small",
        "late-interaction checkpoint, or any encoder, which gets a closed-form head",
    )
    student: str = key(
        "",
        "model that students start from: a late-interaction checkpoint, or any encoder (default: the teacher)",
    )
    dim: int = key(128, "token dimension of closed-form heads")
    side: str = key("query", "the side in the foreign language: query, document or both")
    languages: dict[str, list[str]] = key(
        {}, "languages, or groups of them: {low-resource: [ha, yo], high-resource: [fr]}"
    )
    head_languages: list[str] = key([], "languages whose English a head is fitted on (default: all)")
    head_text: str = key(
        "",
        "what a head is fitted on: documents (of the collection), bitext, or a file; see docs/how-to/teachers.md",
    )
    seeds: Any = key(1, "number of seeds, for all languages or for each group")
    out_of_domain: dict[str, dict[str, Any]] = key(
        {}, "a collection of another domain for some languages: {ny: {collection: bible:ny, queries: 300}}"
    )
    systems: dict[str, dict[str, Any]] = key({}, "each system's name, and its loss or method with options")
    training: dict[str, Any] = key({}, "training arguments of all systems")
    baseline: str = key("", "the system that others are tested against (default: the first)")
    translation: list[str] = key([], "systems that translate; the report gives gains over the best of them")
    question: str = key("", "the question that the recipe answers, as the title of the report")
    max_pairs: int | None = key(None, "use only the first pairs")
    freeze_embeddings: bool = key(True, "keep the word embedding table fixed: true or false")
    dropout: float | None = key(0.0, "dropout of students in training; null: the encoder's own")
    token_dtype: str = key("float32", "how stored tokens are kept: float32, float16, bfloat16 or int8")
    foreign_column: str = key("foreign", "name of the foreign column in bitext files")
    english_column: str = key("english", "name of the English column in bitext files")

    @property
    def every_language(self) -> list[str]:
        """The languages of all groups; one without a name where the recipe names none."""
        return [name for group in self.languages.values() for name in group] or [""]

    @property
    def groups(self) -> dict[str, list[str]]:
        """The languages by group."""
        return self.languages or {"": [""]}

    @property
    def search_side(self) -> str:
        """The role of the foreign side where systems are evaluated."""
        return "query" if self.side == "both" else self.side

    def seeds_of(self, system: str, language: str) -> list[int]:
        """The seeds of a system's cells in a language; 0 alone where nothing is drawn.

        Word alignments are drawn, too; as their sampler takes no seed, theirs only count repetitions.
        """
        options = self.systems[system]
        method = options.get("method")
        if method == "fusion":
            return max((self.seeds_of(part, language) for part in options["of"]), key=len)
        words = method in ("bm25-translate", "nmt") and options.get("translator", DICTIONARY) == DICTIONARY
        if method and method != "psq" and not words:
            return [0]
        group = next(name for name, members in self.groups.items() if language in members)
        seeds = self.seeds[group] if isinstance(self.seeds, dict) else self.seeds
        return list(range(min(seeds, options.get("seeds", seeds))))

    def languages_of(self, system: str) -> list[str]:
        """The languages that a system is evaluated in."""
        own = self.systems[system].get("languages")
        return [name for name in self.every_language if own is None or name in own]

    def weighted(self, language: str) -> set[str]:
        """The systems that weighted fusions in a language are made of."""
        fusions = {name: o for name, o in self.systems.items() if o.get("method_of_fusion") == WEIGHTED}
        asked = (options for name, options in fusions.items() if language in self.languages_of(name))
        return {part for options in asked for part in options["of"]}

    def places(self, language: str) -> dict[str, dict[str, Any]]:
        """Place → ``collection`` (its spec), and ``queries`` and ``documents`` of a sample, for a language."""
        found: dict[str, dict[str, Any]] = {}
        if self.collection:
            found[IN_DOMAIN] = {"collection": self.collection}
        if language in self.out_of_domain:
            found[OUT_OF_DOMAIN] = dict(self.out_of_domain[language])
        for name, given in self.collections.items():
            options = {"collection": given} if isinstance(given, str) else dict(given)
            if language in options.pop("languages", [language]):
                found[name] = options
        return {
            place: {**options, "collection": options["collection"].format(language=language)}
            for place, options in found.items()
        }


@dataclasses.dataclass(frozen=True)
class Cell:
    """A system in one language with one seed; see :meth:`Recipe.seeds_of`."""

    system: str
    language: str
    seed: int

    @property
    def path(self) -> str:
        """Its folder, below the output folder."""
        if self.language:
            return f"{self.system}/{self.language}-{self.seed}"
        return f"{self.system}-seed-{self.seed}" if self.seed else self.system

    def __str__(self) -> str:
        parts = [self.system, self.language, f"seed {self.seed}"]
        return ", ".join(part for part in parts if part)


def read_yaml(text: str) -> Any:
    """The value that a YAML text holds; ``5e-2`` is a number, as in version 1.2 of the language.

    Examples
    --------
    >>> read_yaml("{reg: 5e-2, dropout: null}")
    {'reg': 0.05, 'dropout': None}
    """
    yaml: Any = require("yaml", "train")

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML ({' '.join(str(error).split())})") from None


def same_recipe(recipe: Any, *_: Any, **__: Any) -> dict[str, str]:
    """The keys of a recipe, which all processes of a run must be given alike."""
    return {f"recipe: {name}": of_settings(value) for name, value in vars(recipe).items()}


def find_recipe(name: str | Path) -> Path:
    """A recipe file: a path, or the name of a recipe of the package, such as ``demo`` or ``recipes/demo.yaml``."""
    path = Path(name)
    if path.is_file():
        return path
    packaged = PACKAGED_RECIPES / f"{path.stem}.yaml"
    if packaged.is_file() and path.parent in (Path("."), Path("recipes")) and path.suffix in ("", ".yaml"):
        return packaged
    known = [p.stem for p in PACKAGED_RECIPES.glob("*.yaml")]
    raise InputError(f"recipe: no such file: {name}{closest(path.stem, known)}")


def restrict(
    recipe: Recipe, systems: Sequence[str] | None, languages: Sequence[str] | None, seeds: int | None
) -> None:
    """Leave only these systems (and the baseline), languages and seeds in a recipe."""
    if systems:
        for name in systems:
            if name not in recipe.systems:
                raise InputError(f"systems: the recipe has no system '{name}'{closest(name, recipe.systems)}")
        kept = {*systems, *(part for name in systems for part in recipe.systems[name].get("of", ()))}
        if recipe.baseline not in kept:
            # Comparisons need it where it costs no training; otherwise the first one that was asked for serves.
            options = recipe.systems[recipe.baseline]
            if options.get("loss") or options.get("of"):
                recipe.baseline = systems[0]
            kept.add(recipe.baseline)
        recipe.systems = {name: o for name, o in recipe.systems.items() if name in kept}
        recipe.translation = [name for name in recipe.translation if name in kept]
    if languages:
        for name in languages:
            if name not in recipe.every_language:
                raise InputError(
                    f"languages: the recipe has no '{name}'{closest(name, recipe.every_language)}"
                )
        recipe.languages = {
            group: chosen
            for group, names in recipe.languages.items()
            if (chosen := [name for name in names if name in languages])
        }
        outside = recipe.out_of_domain.items()
        recipe.out_of_domain = {k: v for k, v in outside if k in recipe.every_language}
    if seeds is not None:
        recipe.seeds = seeds


def key_of(options: Mapping[str, Any]) -> str:
    """What a system's training depends on: systems that differ in ``interpolate`` alone share it."""
    rest = {k: v for k, v in options.items() if k not in ("interpolate", "seeds")}
    return json.dumps(rest, sort_keys=True, default=str)


def cells(recipe: Recipe) -> Iterator[list[Cell]]:
    """All cells, those that are made together at a time: of one training, or of one untrained system."""
    trained: dict[str, list[str]] = {}
    for name, options in recipe.systems.items():
        if options.get("loss"):
            trained.setdefault(key_of(options), []).append(name)
    for name, options in recipe.systems.items():
        languages = recipe.languages_of(name)
        if not options.get("loss"):
            for language in languages:
                yield from ([Cell(name, language, seed)] for seed in recipe.seeds_of(name, language))
            continue
        group = trained.pop(key_of(options), None)
        if group is None:
            continue  # made with a system before it
        asked = {
            (language, seed): [Cell(s, language, seed) for s in group if seed in recipe.seeds_of(s, language)]
            for language in languages
            for seed in sorted({seed for s in group for seed in recipe.seeds_of(s, language)})
        }
        if options.get("joint"):
            for seed in sorted({seed for _, seed in asked}):
                yield [cell for (_, own), members in asked.items() if own == seed for cell in members]
        else:
            yield from asked.values()
