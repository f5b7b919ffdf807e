"""What the cells of an experiment share: the teacher, its tokens, bitext and collections."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import MultiVectorEncoder

from ..data import Bitext, load_bitext, load_collection
from ..data.collection import Collection
from ..retrieval import Evaluation, encode, evaluate_tokens
from ..train import check_models, prepare_student, prepare_teacher, teacher_store
from .recipe import Experiment

#: Where results are within a cell.
IN_DOMAIN, OUT_OF_DOMAIN = "in-domain", "out-of-domain"


class Workbench:
    """What cells share: the teacher, its tokens of all English sentences, and encoded documents.

    Parameters
    ----------
    experiment : Experiment
    folder : path
        The output folder.
    """

    def __init__(self, experiment: Experiment, folder: Path):
        self.experiment, self.folder = experiment, folder
        #: The role of the foreign side, and that of the English one.
        self.side = experiment.side
        self.other = "document" if self.side == "query" else "query"
        self._bitexts: dict[str, Bitext] = {}
        self._collections: dict[tuple[str, str], Collection] = {}
        self._encoded: dict[str, list[np.ndarray]] = {}
        english = list(dict.fromkeys(self._learnt()))
        self.places = {text: i for i, text in enumerate(english)}
        union = Bitext("all", english, english)
        check_models(experiment)
        in_domain = self._in_domain()
        self.teacher, _ = prepare_teacher(experiment, in_domain, folder / "teacher")
        #: What every student starts from: the teacher, or another encoder in its space.
        self.start = prepare_student(experiment, self.teacher, in_domain)
        self.store = teacher_store(self.teacher, union, [self.side], folder / "cache" / "teacher-tokens")

    def _in_domain(self) -> Bitext:
        """English of the recipe's own bitexts, which the teacher's head is fitted on.

        Of all its languages, also where a run is restricted to some: a later run goes on with the same teacher.
        """
        texts = dict.fromkeys(
            text
            for language in self.experiment.head_languages
            for text in self.bitext(self.experiment.bitext.format(language=language)).english
        )
        return Bitext("in-domain", list(texts), list(texts))

    def _learnt(self) -> Iterator[str]:
        """English sentences that students are trained on, or may find."""
        for language in self.experiment.every_language:
            yield from self.bitext(self.experiment.bitext.format(language=language)).english
        for name, options in self.experiment.systems.items():
            if options.get("loss"):
                for language in self.experiment.languages_of(name):
                    yield from self.training_pairs(options, [language])[0].english
                    if options.get("mine"):
                        yield from self.bitext(options["mine"].format(language=language)).english

    def specs(self, options: Mapping[str, Any], language: str) -> list[str]:
        """The bitexts that a system learns a language from."""
        given = options.get("bitext") or self.experiment.bitext
        return [spec.format(language=language) for spec in (given if isinstance(given, list) else [given])]

    def monolingual(self, spec: str, languages: Sequence[str]) -> Bitext:
        """Texts of a domain, both sides of a bitext, of which nothing may use the alignment."""
        bitexts = [self.bitext(spec.format(language=language)) for language in languages]
        foreign = [text for bitext in bitexts for text in bitext.foreign]
        english = sorted({text for bitext in bitexts for text in bitext.english})
        return Bitext(spec, foreign, english)

    def bitext(self, spec: str) -> Bitext:
        """A bitext, read once."""
        if spec not in self._bitexts:
            columns = (self.experiment.foreign_column, self.experiment.english_column)
            self._bitexts[spec] = load_bitext(spec, columns=columns)
        return self._bitexts[spec]

    def collections(self, language: str) -> dict[str, Collection]:
        """The test collections of a language, in and out of the domain."""
        found = {IN_DOMAIN: self._collection(self.experiment.collection.format(language=language), {})}
        if language in self.experiment.out_of_domain:
            sample = dict(self.experiment.out_of_domain[language])
            found[OUT_OF_DOMAIN] = self._collection(sample.pop("collection"), sample)
        return found

    def _collection(self, spec: str, sample: dict[str, Any]) -> Collection:
        key = spec, json.dumps(sample, sort_keys=True)
        if key not in self._collections:
            self._collections[key] = load_collection(spec, side=self.side).sample(**sample)
        return self._collections[key]

    def english(self, collection: Collection) -> list[np.ndarray]:
        """The teacher's tokens of a collection's English side, encoded once for all that share it."""
        texts = texts_of(collection, self.other)
        key = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        if key not in self._encoded:
            self._encoded[key] = encode(self.teacher, texts, self.other)
        return self._encoded[key]

    def evaluate(
        self, model: MultiVectorEncoder, collection: Collection, english: list[np.ndarray] | None = None
    ) -> Evaluation:
        """Encode the foreign side with a model, search and score; the English side is the teacher's."""
        foreign = encode(model, texts_of(collection, self.side), self.side)
        english = self.english(collection) if english is None else english
        pair = (foreign, english) if self.side == "query" else (english, foreign)
        return evaluate_tokens(*pair, collection)

    def training_pairs(
        self, options: Mapping[str, Any], languages: Sequence[str]
    ) -> tuple[Bitext, list[str]]:
        """The sentence pairs of a system, and the group of each: its language, or its bitext if several."""
        foreign, english, groups = [], [], []
        for language in languages:
            bitexts = [self.bitext(spec) for spec in self.specs(options, language)]
            bitexts = [b.head(options.get("max_pairs", self.experiment.max_pairs)) for b in bitexts]
            shares = options.get("proportions")
            if shares is not None:
                # As many pairs as the largest that the proportions allow without repeating the first.
                total = len(bitexts[0]) / shares[0]
                bitexts = [b.resample(round(total * s)) for b, s in zip(bitexts, shares, strict=True)]
            for bitext in bitexts:
                foreign += bitext.foreign
                english += bitext.english
                name = language if len(bitexts) == 1 else bitext.name
                groups += [name] * len(bitext)
        return Bitext("+".join(languages), foreign, english), groups


def texts_of(collection: Collection, role: str) -> list[str]:
    """The texts of a collection's queries or documents."""
    return list((collection.queries if role == "query" else collection.documents).values())
