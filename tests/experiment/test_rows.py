"""Rows without a student: the plain encoder, translations by people, fusions with a weight that dev queries chose."""

import json

import numpy as np
import pytest
import yaml
from optical_rs import InputError

pytest.importorskip("sentence_transformers")

from optical_rs import experiment as experiments
from optical_rs.data import load_collection
from optical_rs.files import read_run
from optical_rs.models import pooled_encoder
from optical_rs.ranking import fuse
from optical_rs.retrieval import encode, evaluate_run, evaluate_tokens, texts_of
from optical_rs.token_cache import TokenCache


def write_collection(folder, queries, pairs, asked=None):
    folder.mkdir(parents=True)
    (folder / "queries.tsv").write_text("".join(f"q{i}\t{q}\n" for i, q in enumerate(queries)))
    (folder / "documents.tsv").write_text("".join(f"d{i}\t{e}\n" for i, (_, e) in enumerate(pairs)))
    (folder / "qrels.txt").write_text("".join(f"q{i} 0 d{i} 1\n" for i in range(len(asked or pairs))))
    return str(folder)


@pytest.fixture
def recipe(tmp_path, pairs, teacher):
    teacher.save_pretrained(str(tmp_path / "teacher"))
    (tmp_path / "pairs.tsv").write_text("".join(f"{f}\t{e}\n" for f, e in pairs), encoding="utf-8")
    write_collection(tmp_path / "test" / "ny", [f for f, _ in pairs], pairs)
    write_collection(tmp_path / "english" / "ny", [e for _, e in pairs], pairs)
    write_collection(tmp_path / "dev" / "ny", [" ".join(f.split()[1:]) for f, _ in pairs], pairs)
    return {
        "teacher": str(tmp_path / "teacher"),
        "bitext": str(tmp_path / "pairs.tsv"),
        "collection": str(tmp_path / "test" / "{language}"),
        "dev_collection": str(tmp_path / "dev" / "{language}"),
        "languages": ["ny"],
        "systems": {"zero-shot": None},
        "training": {
            "num_train_epochs": 3, "per_device_train_batch_size": 4, "use_cpu": True, "learning_rate": 1e-3,
            "disable_tqdm": True,
        },
    }  # fmt: skip


def read(recipe, folder):
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return experiments.read_recipe(file)


def run(recipe, tmp_path, **options):
    said = []
    options = {"cache": tmp_path / "cache", "say": said.append, **options}
    report, failures = experiments.run(read(recipe, tmp_path), tmp_path / "out", **options)
    assert failures == []
    return report, said


def maps(report):
    return {name: row["ny"]["mean"] for name, row in report["measures"]["in-domain"]["map"].items()}


def test_the_plain_encoder_and_human_translations(recipe, tmp_path, teacher, tiny_encoder):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    queries = str(tmp_path / "english" / "{language}")
    recipe["systems"] |= {
        "pooled": {"method": "pooled"},
        "pooled, other": {"method": "pooled", "encoder": tiny_encoder},
        "oracle": {"method": "oracle", "queries": queries},
        "oracle, pooled": {"method": "oracle", "queries": queries, "by": "pooled"},
        "oracle, bm25": {"method": "oracle", "queries": queries, "by": "bm25"},
    }
    recipe["systems"] = {name.replace(", ", "-"): o for name, o in recipe["systems"].items()}
    report, _ = run(recipe, tmp_path)
    found = maps(report)
    # A sentence finds itself.
    assert found["oracle"] == found["oracle-pooled"] == found["oracle-bm25"] == pytest.approx(1)
    # The mean of the encoder's own vectors, and cosines of it.
    collection = load_collection(tmp_path / "test" / "ny")
    texts = {role: texts_of(collection, role) for role in ("query", "document")}

    def vectors(role):
        prompt = teacher.prompts[role]
        made = []
        for text in texts[role]:
            features = teacher.preprocess([text], prompt=prompt, task=role)
            hidden = teacher[0](features)["token_embeddings"][0].detach().numpy().mean(axis=0)
            made.append((hidden / np.linalg.norm(hidden))[None])
        return made

    want = evaluate_tokens(vectors("query"), vectors("document"), collection).result.mean["map"]
    assert found["pooled"] == pytest.approx(want)
    # The encoder alone has no prompts of its own.
    plain = pooled_encoder(tiny_encoder)
    own = evaluate_tokens(*(encode(plain, texts[role], role) for role in texts), collection)
    assert found["pooled-other"] == pytest.approx(own.result.mean["map"])
    # Other translations are another row.
    (tmp_path / "english" / "ny" / "queries.tsv").write_text("".join(f"q{i}\train\n" for i in range(12)))
    with pytest.raises(InputError, match="holds results of other settings"):
        run(recipe, tmp_path)
    (tmp_path / "english" / "ny" / "queries.tsv").write_text("q0\train\n")
    with pytest.raises(InputError, match="lacks 11 of the queries of in-domain"):
        run(recipe, tmp_path)
    del recipe["systems"]["oracle"]["queries"]
    with pytest.raises(InputError, match="queries: no translations for in-domain"):
        run(recipe, tmp_path)


def test_a_text_of_the_plain_encoder_is_one_stored_token(teacher, pairs, tmp_path):
    model = pooled_encoder(teacher)
    texts = [e for _, e in pairs]
    stored = TokenCache(model, tmp_path).tokens(texts, "document")
    assert [t.shape for t in stored] == [(1, 32)] * len(texts)
    assert np.allclose(
        np.concatenate(list(stored)), np.concatenate(encode(model, texts, "document")), atol=1e-6
    )
    assert TokenCache(model, tmp_path).fingerprint != TokenCache(teacher, tmp_path).fingerprint


def test_a_weight_is_chosen_on_dev_queries(recipe, tmp_path):
    recipe["systems"] |= {
        "after": {"loss": "pooled-mse"},
        "both": {"method": "fusion", "of": ["zero-shot", "after"], "method_of_fusion": "weighted"},
    }
    report, _ = run(recipe, tmp_path)
    out = tmp_path / "out"
    record = json.loads((out / "both" / "ny-0" / "optical.json").read_text())
    dev = load_collection(tmp_path / "dev" / "ny")
    test = load_collection(tmp_path / "test" / "ny")

    def fused(place, weight):
        runs = [
            read_run(out / name / "ny-0" / "evaluation" / place / "run.trec")
            for name in ("zero-shot", "after")
        ]
        found = fuse(runs, method="score", weights=[1 - weight, weight])
        asked = dev if place == "dev" else test
        return evaluate_run({q: list(d.items()) for q, d in found.items()}, asked).result.mean["map"]

    scores = {tenth / 10: fused("dev", tenth / 10) for tenth in range(11)}
    assert scores[record["weight"]] == max(scores.values()) == pytest.approx(record["dev_map"])
    assert len(set(scores.values())) > 1
    assert maps(report)["both"] == pytest.approx(fused("in-domain", record["weight"]))
    assert not (out / "both" / "ny-0" / "evaluation" / "dev").exists()
    assert "dev" not in report["measures"]
    # Weights that are given need no dev queries.
    recipe["systems"]["given"] = {
        **{"method": "fusion", "of": ["zero-shot", "after"], "method_of_fusion": "score"},
        "shares": [0.3, 0.7],
    }
    assert maps(run(recipe, tmp_path)[0])["given"] == pytest.approx(fused("in-domain", 0.7))
    del recipe["systems"]["given"]
    # Nothing is made again; a fusion of systems that are made later has a weight of its own.
    assert "3 results: 3 exist, 0 are missing" in run(recipe, tmp_path)[1]
    recipe["systems"]["pooled"] = {"method": "pooled"}
    recipe["systems"]["more"] = {**recipe["systems"]["both"], "of": ["pooled", "after"]}
    assert "5 results: 3 exist, 2 are missing" in run(recipe, tmp_path)[1]
    later = json.loads((out / "more" / "ny-0" / "optical.json").read_text())
    assert 0 <= later["weight"] <= 1
    recipe["dev_collection"] = ""
    recipe["systems"]["more"]["languages"] = []
    with pytest.raises(InputError, match="method_of_fusion: weighted chooses by dev queries"):
        run(recipe, tmp_path)


def test_only_the_languages_of_a_fusion_need_dev_queries(recipe, tmp_path):
    weighted = {"method": "fusion", "of": ["zero-shot", "pooled"], "method_of_fusion": "weighted"}
    recipe["systems"] |= {"pooled": {"method": "pooled"}, "both": {**weighted, "languages": ["ny"]}}
    checked = read({**recipe, "languages": ["ny", "xx"]}, tmp_path)
    assert checked.weighted("ny") == {"zero-shot", "pooled"}
    assert checked.weighted("xx") == set()


@pytest.mark.parametrize(
    ("systems", "changes", "message"),
    [
        ({"a": {"method": "oracle", "by": "lat"}}, {}, "by: unknown way 'lat'; did you mean 'late'"),
        ({"a": {"method": "oracle"}}, {"side": "document"}, "need the side 'query', got 'document'"),
        ({"a": {"method": "pooled", "dim": 3}}, {}, "has no option 'dim'"),
        (
            {"a": {"method": "fusion", "of": ["zero-shot", "b"], "method_of_fusion": "wighted"}, "b": None},
            {},
            "method_of_fusion: unknown way 'wighted'; did you mean 'weighted'",
        ),
        (
            {"a": {"method": "fusion", "of": ["b", "b", "b"], "method_of_fusion": "weighted"}, "b": None},
            {},
            "a weight is chosen for two systems, got 3",
        ),
        (
            {
                "a": {"method": "fusion", "of": ["b", "zero-shot"], "method_of_fusion": "weighted"},
                "b": {"method": "oracle"},
            },
            {},
            "'b' cannot be evaluated on dev queries",
        ),
        ({"zero-shot": None}, {"collections": {"dev": "x"}}, "'dev' is not usable"),
        (
            {"a": {"method": "fusion", "of": ["b", "zero-shot"], "shares": [1, 2]}, "b": None},
            {},
            "shares: only 'method_of_fusion: score' has them, got 'rrf'",
        ),
        (
            {
                "a": {
                    "method": "fusion",
                    "of": ["b", "zero-shot"],
                    "method_of_fusion": "score",
                    "shares": [1],
                },
                "b": None,
            },
            {},
            r"shares: expected 2 numbers >= 0, one for each system, got \[1\]",
        ),
    ],
)
def test_bad_rows(recipe, tmp_path, systems, changes, message):
    with pytest.raises(InputError, match=message):
        read({**recipe, "systems": {"zero-shot": None, **systems}, **changes}, tmp_path)
