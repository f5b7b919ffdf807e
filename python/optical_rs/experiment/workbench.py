"""What the cells of a run share: models, the teacher's tokens, bitexts and collections, and their identities."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sentence_transformers import MultiVectorEncoder

from .. import fingerprint
from ..data import Bitext, Collection, load_bitext, load_collection, stream_documents
from ..data.collection import splits_of
from ..data.sources.known_item import normal
from ..errors import InputError
from ..models import RECORD, is_late_interaction, pooled_encoder
from ..retrieval import (
    Evaluation,
    content_of,
    evaluate_pair,
    other_side,
)
from ..token_cache import TokenCache
from ..training import Anchor, Distillation
from ..training.anchor import check_anchor, read_anchor
from ..training.dev import DEV_DOCUMENTS, DEV_QUERIES, dev_of, evaluate_alone
from ..training.english import read_english, specs_of
from ..training.mixture import mix
from ..training.teacher import check_models, prepare_start, prepare_teacher, start_identity, teacher_identity
from .recipe import DEV, DISTILLATION, PAIRS, RETRIEVAL, WEIGHTED, Recipe

#: Documents that a head is fitted on at most, and the number from which they suffice alone.
HEAD_TEXTS, HEAD_LEAST = 20_000, 500


class Workbench:
    """Everything is loaded when it is first asked for, and once.

    Parameters
    ----------
    recipe : Recipe
    folder : path
        The output folder.
    cache : path, optional
        Of token embeddings; see :class:`~optical_rs.token_cache.TokenCache`.
    say : callable
        For what the user should know of.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, *, cache: Path | None = None, say: Callable[[str], None] = print
    ):
        self.recipe, self.folder, self.cache, self.say = recipe, folder, cache, say
        #: The role of the foreign side where systems are evaluated, and that of the English one.
        self.side = recipe.search_side
        self.other = other_side(self.side)
        self._bitexts: dict[str, Bitext] = {}
        self._collections: dict[str, Collection] = {}
        self._anchors: dict[str, Anchor] = {}
        self._passages: dict[tuple[str, ...], list[str]] = {}
        self._pooled: dict[str, TokenCache] = {}
        self._dev: dict[str, tuple[Collection | None, frozenset[str]]] = {}

    # Models

    def check_models(self) -> None:
        """Raise for models that cannot be had or do not fit each other."""
        check_models(self.recipe.teacher, self.recipe.student, self.recipe.dim)

    @functools.cached_property
    def _head_texts(self) -> list[str]:
        """What a head is fitted on: text like that which will be searched, as far as it is known.

        By default the English documents of the recipe's own collections, without queries or judgments, and where these
        are few the English of the bitexts as well. Of all languages of the recipe, also where a run is restricted to
        some: a later run goes on with the same teacher.
        """
        source = self.recipe.head_text
        if source not in ("", "documents", "bitext"):
            return list(dict.fromkeys(text for _, text in stream_documents(source)))[:HEAD_TEXTS]
        texts: dict[str, None] = {}
        if source == "documents" or (not source and self.recipe.collection and self.other == "document"):
            for language in self.recipe.head_languages:
                found = load_collection(self.recipe.collection.format(language=language), side=self.side)
                texts |= dict.fromkeys(found.documents.values())
            if source or len(texts) >= HEAD_LEAST:
                # Evenly spaced ones of many: moments of more texts are the same.
                return list(texts)[:: max(1, -(-len(texts) // HEAD_TEXTS))]
        for language in self.recipe.head_languages:
            pairs = self.bitext(self.recipe.bitext.format(language=language)).head(self.recipe.max_pairs)
            texts |= dict.fromkeys(pairs.english)
        return list(texts)

    @functools.cached_property
    def _prepared(self) -> tuple[MultiVectorEncoder, str]:
        recipe = self.recipe
        self.say(f"teacher: {recipe.teacher}")
        return prepare_teacher(recipe.teacher, recipe.dim, self._head_texts, self.folder / "teacher")

    @property
    def teacher(self) -> MultiVectorEncoder:
        """The model of the English side."""
        return self._prepared[0]

    @property
    def teacher_path(self) -> str:
        """Where the teacher can be loaded from."""
        return self._prepared[1]

    def teacher_from(self, folder: Path) -> str:
        """Where the teacher can be loaded from, as a record in a folder says it."""
        path = self.teacher_path
        return os.path.relpath(Path(path).resolve(), folder.resolve()) if os.path.isdir(path) else path

    @functools.cached_property
    def start(self) -> MultiVectorEncoder:
        """What students start from: the teacher, or another encoder in its space."""
        return prepare_start(self.recipe.student, self.teacher, self._head_texts, self.folder / "start")

    @functools.cached_property
    def english(self) -> TokenCache:
        """The teacher's tokens."""
        return TokenCache(self.teacher, self.cache, dtype=self.recipe.token_dtype)  # type: ignore[arg-type]

    def teacher_state(self) -> str:
        """``"made"`` if the teacher is a checkpoint or lies in the folder, ``"other"`` if one of other texts, another
        encoder or dimension lies there, ``"missing"`` otherwise."""
        if is_late_interaction(self.recipe.teacher):
            return "made"
        file = self.folder / "teacher" / RECORD
        if not file.exists():
            return "missing"
        made_of = json.loads(file.read_text(encoding="utf-8")).get("made_of")
        wanted = teacher_identity(self.recipe.teacher, self.recipe.dim, self._head_texts)
        return "made" if made_of == wanted else "other"

    def start_state(self) -> str:
        """As :meth:`teacher_state`, of an encoder that is matched to the teacher."""
        spec = self.recipe.student
        if not spec or is_late_interaction(spec, "student"):
            return "made"
        file = self.folder / "start" / RECORD
        if not file.exists():
            return "missing"
        made_of = json.loads(file.read_text(encoding="utf-8")).get("made_of")
        return "made" if made_of == start_identity(spec, self.teacher, self._head_texts) else "other"

    @functools.cached_property
    def prints(self) -> tuple[str, str]:
        """Fingerprints of the teacher and of the start."""
        teacher = self.english.fingerprint
        return teacher, teacher if self.start is self.teacher else fingerprint.of_model(self.start)

    # Texts

    def bitext(self, spec: str) -> Bitext:
        """A bitext, read once."""
        if spec not in self._bitexts:
            columns = (self.recipe.foreign_column, self.recipe.english_column)
            self._bitexts[spec] = load_bitext(spec, columns=columns)
        return self._bitexts[spec]

    def training_pairs(
        self, options: Mapping[str, Any], languages: Sequence[str]
    ) -> tuple[Bitext, list[str]]:
        """The sentence pairs of a system, and the group of each: its language, or its bitext if several."""
        parts, groups = [], []
        for language in languages:
            given = options.get("bitext") or self.recipe.bitext
            specs = [s.format(language=language) for s in (given if isinstance(given, list) else [given])]
            pairs, names = mix(
                [self.bitext(spec) for spec in specs],
                max_pairs=options.get("max_pairs", self.recipe.max_pairs),
                proportions=options.get("proportions"),
                group=(language or "pairs") if len(specs) == 1 else None,
            )
            parts.append(pairs)
            groups += names
        return mix(parts)[0], groups

    def collections(self, language: str) -> dict[str, Collection]:
        """The test collections of a language, by place."""
        found = {}
        for place, options in self.recipe.places(language).items():
            key = json.dumps(options, sort_keys=True)
            if key not in self._collections:
                sample = dict(options)
                spec, split = sample.pop("collection"), sample.pop("split", "test")
                loaded = load_collection(spec, split=split, side=self.side)
                self._collections[key] = loaded.sample(**sample)
            found[place] = self._collections[key]
        return found

    def asked(self, system: str, language: str) -> dict[str, Collection]:
        """What a system is asked: the test collections, and dev queries where a weight is chosen by them."""
        found = self.collections(language)
        if system not in self.recipe.weighted(language):
            return found
        dev, held_out = self.dev(language)
        if dev is None or held_out:
            raise InputError(
                f"method_of_fusion: {WEIGHTED} chooses by dev queries, and there are none besides pairs of the bitext; "
                "name a dev_collection"
            )
        return {**found, DEV: dev}

    def pooled(self, encoder: str = "") -> TokenCache:
        """The plain encoder, one vector of a text, and what it made of texts: by default what students start from."""
        spec = encoder or self.recipe.student or self.recipe.teacher
        if spec not in self._pooled:
            self._pooled[spec] = TokenCache(pooled_encoder(spec), self.cache)
        return self._pooled[spec]

    def translations(self, language: str, options: Mapping[str, Any]) -> dict[str, Collection]:
        """The test collections of a language with queries that people translated."""
        found = {}
        for place, own in self.recipe.places(language).items():
            spec = options.get("queries", "").format(language=language) or f"{own['collection']}/translated"
            asked = self.collections(language)[place]
            try:
                translated = load_collection(spec, split=own.get("split", "test")).queries
            except InputError as error:
                raise InputError(f"queries: no translations for {place}: {error}") from None
            if missing := [query for query in asked.queries if query not in translated]:
                raise InputError(
                    f"queries: {spec} lacks {len(missing)} of the queries of {place}, such as '{missing[0]}'"
                )
            found[place] = dataclasses.replace(asked, queries={q: translated[q] for q in asked.queries})
        return found

    def dev(self, language: str) -> tuple[Collection | None, frozenset[str]]:
        """Dev queries of a language, and English sentences that training must leave out for them.

        Those of ``dev_collection``, else the dev split of the collection, else pairs held out of the bitext. Never the
        queries that a system is tested on.
        """
        if language not in self._dev:
            self._dev[language] = self._find_dev(language)
        return self._dev[language]

    def _find_dev(self, language: str) -> tuple[Collection | None, frozenset[str]]:
        recipe = self.recipe
        spec = (recipe.dev_collection or recipe.collection).format(language=language)
        name = f" of {language}" if language else ""
        reason = "there is no collection"
        if spec:
            have = splits_of(spec)
            own = recipe.dev_collection not in ("", recipe.collection)
            # A collection that is named for it serves with whatever queries it has.
            split = next((name for name in ("dev", "test") if name in have and (own or name == "dev")), None)
            if split is None:
                reason = f"{spec} has no dev queries"
            else:
                found = self._untested(load_collection(spec, split=split, side=self.side), language)
                if found is not None:
                    return found.sample(queries=DEV_QUERIES, documents=DEV_DOCUMENTS), frozenset()
                reason = f"{spec} has queries that systems are tested on"
            if recipe.dev_collection:
                raise InputError(f"dev_collection: {reason}; name another")
        pairs, _ = self.training_pairs({}, [language])
        kept, held = dev_of(True, pairs, self.side)
        if held is None:
            self.say(
                f"dev{name}: no dev queries, and too few pairs to hold any out: the last checkpoint is taken"
            )
            return None, frozenset()
        left = frozenset(pairs.english) - frozenset(kept.english)
        self.say(f"dev{name}: {len(pairs) - len(kept)} pairs are held out of the bitext ({reason})")
        return held, left

    def _untested(self, dev: Collection, language: str) -> Collection | None:
        """Dev queries without those that a system is tested on; None if that is half of them."""
        tested = {text for test in self.collections(language).values() for text in test.queries.values()}
        queries = {query: text for query, text in dev.queries.items() if text not in tested}
        if 2 * len(queries) <= len(dev.queries):
            return None
        qrels = {query: judged for query, judged in dev.qrels.items() if query in queries}
        return dataclasses.replace(dev, queries=queries, qrels=qrels)

    # Systems

    def distillation(
        self, options: Mapping[str, Any], languages: Sequence[str], seed: int
    ) -> tuple[Distillation, Bitext, list[str], Collection | None]:
        """How a system's student is made, and of what: pairs, their groups, and dev queries."""
        recipe = self.recipe
        own = {k: v for k, v in options.items() if k in DISTILLATION}
        training = {
            "logging_strategy": "no",
            **recipe.training,
            **(own.pop("training", None) or {}),
        }
        mlm, mine = own.pop("mlm", None), own.pop("mine", None)
        if mlm:
            own["mlm"] = [t for name in languages for t in self.bitext(mlm.format(language=name)).foreign]
        if mine:
            own["mine"] = [self.bitext(mine.format(language=name)) for name in languages]
        own["anchor"] = self.anchor(options, languages)
        own["passages"] = self.passages(options, languages)
        made = Distillation(
            loss=options["loss"],
            loss_options={k: v for k, v in options.items() if k not in (*DISTILLATION, *PAIRS, "loss")},
            side=recipe.side,
            order=own.pop("order", "pure" if options.get("joint") and recipe.side != "both" else "mixed"),
            freeze_embeddings=recipe.freeze_embeddings,
            dropout=recipe.dropout,
            training=training,
            seed=seed + int(training.get("seed") or 0),
            **own,
        )
        pairs, groups = self.training_pairs(options, languages)
        dev = None
        # A student of several languages takes its last checkpoint.
        if made.chooses and len(languages) == 1:
            dev, left = self.dev(languages[0])
            if left:
                # Also what differs in no more than case and punctuation, in other bitexts of the system.
                near = {normal(text) for text in left}
                kept = [i for i, text in enumerate(pairs.english) if normal(text) not in near]
                pairs = pairs.choose(kept)
                groups = [groups[i] for i in kept]
        return made, pairs, groups, dev

    def anchor(self, options: Mapping[str, Any], languages: Sequence[str]) -> Anchor | None:
        """A system's anchor, read once; ``{language}`` stands for each of a student's languages."""
        if options.get("anchor") is None:
            return None
        given = check_anchor(options["anchor"])
        specs = [str(spec).format(language=name) for spec in given["text"] for name in languages]
        resolved = {**given, "text": list(dict.fromkeys(specs))}
        key = json.dumps(resolved, sort_keys=True)
        if key not in self._anchors:
            self._anchors[key] = read_anchor(resolved, self.side)
        return self._anchors[key]

    def passages(self, options: Mapping[str, Any], languages: Sequence[str]) -> list[str]:
        """English passages of a system, read once; ``{language}`` stands for each of a student's languages."""
        if options.get("passages") is None:
            return []
        given = specs_of(options["passages"], "passages")
        specs = tuple(dict.fromkeys(spec.format(language=name) for spec in given for name in languages))
        if specs not in self._passages:
            self._passages[specs] = read_english(specs, "document", "passages")
        return self._passages[specs]

    def evaluate(
        self, model: MultiVectorEncoder, collection: Collection, options: Mapping[str, Any] | None = None
    ) -> Evaluation:
        """Search a collection with a model on the foreign side, and score; the English side is the teacher's."""
        if options is not None and options.get("loss") == RETRIEVAL:
            # Both sides were trained.
            return evaluate_alone(model, collection)
        return evaluate_pair(model, self.english, collection, self.side)

    def content(self, system: str, language: str) -> dict[str, str]:
        """The content hash of each collection that a system is asked."""
        return {place: self._content(found) for place, found in self.asked(system, language).items()}

    def _content(self, collection: Collection) -> str:
        known: dict[int, tuple[Collection, str]] = self.__dict__.setdefault("_contents", {})
        if id(collection) not in known:
            known[id(collection)] = (collection, content_of(collection))
        return known[id(collection)][1]
