"""What marks on letters are worth: the same queries as written, without tone marks, without any marks, and with
marks as characters of their own (Unicode's NFD).

AfriQA's Yoruba questions over English passages, and 200 Yoruba news sentences of MENYO-20k, which must find their English
translations. The plain encoder and the teacher without training; on the questions also a student of AfriQA's translated questions,
and one that sees each of them without marks, too. Differences to the queries as written are paired: t-test, Holm's correction over the
spellings, 95 % bootstrap intervals over queries. Needs AfriQA and MENYO-20k, see docs/reference/sources.md.
"""

import dataclasses
import unicodedata
from pathlib import Path
from typing import Any

import optical_rs
import torch
from common import arguments, machine, write
from optical_rs.data import Bitext, Collection, load_bitext, load_collection
from optical_rs.models import E5_SMALL, load_model, pooled_encoder
from optical_rs.progress import quiet
from optical_rs.ranking import compare
from optical_rs.retrieval import evaluate_student

#: Combining grave, acute, circumflex, macron and caron.
TONES = set("\u0300\u0301\u0302\u0304\u030c")
#: As in the recipe ``real_questions``; as many steps for both students.
TRAINING = {"max_steps": 90, "learning_rate": 1e-4, "per_device_train_batch_size": 16}


def without(text: str, marks: set[str] | None = None) -> str:
    """A text without some marks, or without any.

    >>> without("Ọmọ ọdún mélòó?", TONES), without("Ọmọ ọdún mélòó?")
    ('Ọmọ ọdun meloo?', 'Omo odun meloo?')
    """
    letters = unicodedata.normalize("NFD", text)
    kept = (c for c in letters if not (unicodedata.combining(c) if marks is None else c in marks))
    return unicodedata.normalize("NFC", "".join(kept))


SPELLINGS = {
    "as written": lambda text: text,
    "without tone marks": lambda text: without(text, TONES),
    "without any marks": without,
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
}


def both(bitext: Bitext) -> Bitext:
    """Each pair as it is and without marks."""
    bare = [without(text) for text in bitext.foreign]
    return dataclasses.replace(bitext, foreign=bitext.foreign + bare, english=bitext.english * 2)


def measured(model: Any, teacher: Any, asked: dict[str, Collection]) -> list[dict[str, Any]]:
    """MAP of each spelling, and its difference to the first."""
    runs = {
        name: {
            query: dict(found) for query, found in evaluate_student(model, of, teacher=teacher).run.items()
        }
        for name, of in asked.items()
    }
    qrels = next(iter(asked.values())).qrels
    found = compare(qrels, runs, ["map"], baseline="as written", complete=True)
    rows: list[dict[str, Any]] = [{"spelling": "as written", "map": found.rows[0].mean_second}]
    for row in found.rows:
        rows.append(
            {
                "spelling": row.first,
                "map": row.mean_first,
                "difference": row.difference,
                "interval": (row.low, row.high),
                "p": row.p_adjusted,
            }
        )
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="a checkpoint, as runs/english_teacher")
    parser.add_argument("--collections", nargs="+", default=["afriqa:yor", "menyo:news"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet()
    teacher = load_model(options.teacher, device="cpu")
    models = {"plain encoder": pooled_encoder(E5_SMALL), "zero-shot: the teacher": teacher}
    students = {}
    if "afriqa:yor" in options.collections:
        pairs = load_bitext("afriqa:yor", split="train")
        students = {
            name: optical_rs.distil(given, teacher, interpolate=1, dev=False, training=TRAINING)
            for name, given in (
                ("student of the questions", pairs),
                ("student of both spellings", both(pairs)),
            )
        }
    results: dict[str, Any] = {}
    for spec in options.collections:
        collection = load_collection(spec)
        if spec != "afriqa:yor":
            collection = collection.sample(queries=200, documents=200)
        texts = list(collection.queries.values())
        asked = {
            name: dataclasses.replace(
                collection, queries={q: spell(t) for q, t in collection.queries.items()}
            )
            for name, spell in SPELLINGS.items()
        }
        tokens = {
            name: sum(map(len, teacher.tokenizer(list(of.queries.values()))["input_ids"])) / len(texts)
            for name, of in asked.items()
        }
        composed, apart = (
            teacher.tokenizer([unicodedata.normalize(form, text) for text in texts])["input_ids"]
            for form in ("NFC", "NFD")
        )
        about = results[spec] = {
            "queries": len(texts),
            "documents": len(collection.documents),
            "with tone marks": sum(text != without(text, TONES) for text in texts),
            "with other marks": sum(without(text, TONES) != without(text) for text in texts),
            "tokens a query": tokens,
            "the same tokens composed and decomposed": sum(
                a == b for a, b in zip(composed, apart, strict=True)
            ),
            "systems": {},
        }
        print(spec, {key: value for key, value in about.items() if key != "systems"}, flush=True)
        for name, model in {**models, **(students if spec == "afriqa:yor" else {})}.items():
            rows = about["systems"][name] = measured(model, teacher if name in students else None, asked)
            for row in rows:
                print(f"{name:28} {row}", flush=True)
    packages = ["torch", "sentence-transformers", "transformers", "scipy", "numpy"]
    about = {"training": TRAINING, "collections": results}
    write(options.json, {"what": __doc__, "machine": machine(packages, options.threads), **about})


if __name__ == "__main__":
    main()
