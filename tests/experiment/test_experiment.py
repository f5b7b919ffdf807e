"""Experiments: every kind of system over two languages, made cell by cell."""

import json
import shutil
from pathlib import Path

import numpy as np
import optical_rs
import pytest
import yaml
from optical_rs import InputError

pytest.importorskip("sentence_transformers")

from optical_rs import experiment as experiments
from optical_rs.cli.experiment import main
from optical_rs.data import load_collection
from optical_rs.experiment import write_report
from optical_rs.experiment.recipe import cells as cells_of
from optical_rs.files import read_run
from optical_rs.retrieval import encode, evaluate_tokens
from optical_rs.training import distillation

from conftest import PAIRS

RECIPES = Path(optical_rs.__file__).parent / "recipes"


@pytest.fixture
def languages(tmp_path, pairs):
    """Bitext files and collections of two "languages", one of them the other spelt backwards."""
    for name in ("ny", "xx"):
        spell = (lambda text: text) if name == "ny" else (lambda text: text[::-1])
        folder = tmp_path / "collections" / name
        folder.mkdir(parents=True)
        rows = [(spell(f), e) for f, e in pairs]
        (tmp_path / f"{name}.tsv").write_text("".join(f"{f}\t{e}\n" for f, e in rows), encoding="utf-8")
        (folder / "queries.tsv").write_text("".join(f"q{i}\t{f}\n" for i, (f, _) in enumerate(rows)))
        (folder / "documents.tsv").write_text("".join(f"d{i}\t{e}\n" for i, (_, e) in enumerate(rows)))
        (folder / "qrels.txt").write_text("".join(f"q{i} 0 d{i} 1\n" for i in range(len(rows))))
    return tmp_path


@pytest.fixture
def recipe(languages, teacher):
    teacher.save_pretrained(str(languages / "teacher"))
    return {
        "question": "Does it work?",
        "teacher": str(languages / "teacher"),
        "bitext": str(languages / "{language}.tsv"),
        "collection": str(languages / "collections" / "{language}"),
        "languages": {"low": ["ny"], "high": ["xx"]},
        "seeds": {"low": 2, "high": 1},
        "out_of_domain": {"ny": {"collection": str(languages / "collections" / "xx"), "queries": 6}},
        "baseline": "zero-shot",
        "systems": {"zero-shot": None},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 4, "use_cpu": True},
    }


def read(recipe, folder):
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return experiments.read_recipe(file)


def run(recipe, tmp_path, **options):
    """The report, what failed, and what was said from the count of cells on."""
    said = []
    options = {"cache": tmp_path / "cache", "say": said.append, **options}
    report, failures = experiments.run(read(recipe, tmp_path), tmp_path / "out", **options)
    first = next(i for i, line in enumerate(said) if " results" in line)
    return report, failures, said[first:]


def test_every_kind_of_system(recipe, tmp_path, languages):
    pytest.importorskip("eflomal")
    pytest.importorskip("peft")
    recipe["systems"] |= {
        "psq": {"method": "psq"},
        "bm25": {"method": "bm25-translate", "translator": "dictionary"},
        "nmt": {"method": "nmt", "translator": "dictionary"},
        "pooled": {"loss": "pooled-mse"},
        "optical+": {"loss": "optical", "pooled_weight": 1, "joint": True, "interpolate": 0.5},
        "idf": {"loss": "optical", "marginals": "idf", "seeds": 1},
        "distill": {"loss": "translate-distill", "seeds": 1},
        "hybrid": {"loss": "retrieval", "alpha": 0.5, "joint": True},
        "mix": {
            "loss": "greedy",
            "bitext": [recipe["bitext"], str(languages / "xx.tsv")],
            "proportions": [0.5, 0.5],
            "order": "sequential",
            "languages": ["ny"],
        },
        "schedule": {
            "loss": "greedy",
            "bitext": [str(languages / "xx.tsv"), recipe["bitext"]],
            "schedule": [[1, 0], [0, 1]],
            "languages": ["ny"],
            "training": {"num_train_epochs": 2},
        },
        "adapted": {
            "loss": "pooled-mse",
            "languages": ["ny"],
            "mlm": recipe["bitext"],
            "mine": recipe["bitext"],
            "margin": 1.0,
            "adapter_rank": 2,
            "max_pairs": 6,
            "interpolate": 0.5,
        },
        "frozen": {"loss": "pooled-mse", "languages": ["ny"], "freeze_layers": 1},
        "both": {"method": "fusion", "of": ["psq", "optical+"]},
    }
    recipe["translation"] = ["psq", "bm25", "nmt"]
    report, failures, said = run(recipe, tmp_path)
    assert failures == []
    assert said[0] == "35 results: 0 exist, 35 are missing"
    table = report["measures"]["in-domain"]["map"]
    assert set(table) == set(recipe["systems"])
    assert table["pooled"]["ny"]["seeds"] == 2
    assert table["pooled"]["xx"]["seeds"] == 1
    assert table["both"]["ny"]["seeds"] == 2
    assert table["idf"]["ny"]["seeds"] == 1
    assert "xx" not in table["mix"]
    record = json.loads((tmp_path / "out" / "adapted" / "ny-0" / "optical.json").read_text())
    assert 0 <= record["mined_right"] <= record["mined"]
    assert record["mlm_steps"] == 3
    assert set(report["measures"]["out-of-domain"]["map"]["optical+"]) == {"ny"}
    # What the report says is what the cells' files say.
    for seed in range(2):
        folder = tmp_path / "out" / "pooled" / f"ny-{seed}" / "evaluation" / "in-domain"
        rows = [line.split("\t") for line in (folder / "per_query.tsv").read_text().splitlines()]
        mean = np.mean([float(row[rows[0].index("map")]) for row in rows[1:]])
        assert json.loads((folder / "metrics.json").read_text())["map"] == pytest.approx(mean, abs=1e-5)
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.startswith("# Does it work?")
    assert "× best translation (" in text
    assert len(report["checksums"]) == len(list((tmp_path / "out").glob("*/*/evaluation/*/per_query.tsv")))
    # Nothing is left to do, and nothing is done.
    _, _, again = run(recipe, tmp_path)
    assert again == ["35 results: 35 exist, 0 are missing"]


def test_neural_translation_with_language_codes(recipe, tmp_path, m2m100, teacher):
    """A real M2M100, tiny: what it knows by another name is asked for so, what it does not know is told."""
    options = {"translator": m2m100, "codes": {"xx": "sw"}, "num_beams": 2}
    recipe["systems"] |= {
        "nmt": {"method": "nmt", **options},
        "bm25": {"method": "bm25-translate", **options},
    }
    recipe |= {"translation": ["nmt"], "out_of_domain": {}}
    report, failures, _ = run(recipe, tmp_path)
    assert len(failures) == 2
    assert all("does not know 'ny'" in failure for failure in failures)
    assert set(report["measures"]["in-domain"]["map"]["nmt"]) == {"xx"}
    # The row is what the library's own model and tokenizer make of the queries, searched by the teacher.
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.M2M100Tokenizer.from_pretrained(m2m100, src_lang="sw")
    model = transformers.M2M100ForConditionalGeneration.from_pretrained(m2m100)
    collection = load_collection(str(tmp_path / "collections" / "xx"))
    english = {}
    for query, text in collection.queries.items():
        ids = model.generate(
            **tokenizer(text, return_tensors="pt"),
            forced_bos_token_id=tokenizer.get_lang_id("en"),
            num_beams=2,
            max_new_tokens=128,
        )
        english[query] = tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip()
    queries = encode(teacher, list(english.values()), "query")
    documents = encode(teacher, list(collection.documents.values()), "document")
    want = evaluate_tokens(queries, documents, collection).run
    got = read_run(tmp_path / "out" / "nmt" / "xx-0" / "evaluation" / "in-domain" / "run.trec")
    for query, hits in want.items():
        assert got[query] == pytest.approx(dict(hits), abs=1e-4)


def test_a_run_goes_on_where_it_was(recipe, tmp_path):
    recipe["systems"]["pooled"] = {"loss": "pooled-mse", "seeds": 1}
    run(recipe, tmp_path)
    cells = tmp_path / "out" / "pooled"
    before = {f.name: (f / "evaluation" / "in-domain" / "run.trec").read_bytes() for f in cells.iterdir()}
    shutil.rmtree(cells / "ny-0")
    (cells / "xx-0" / "optical.json").write_text('{"half a')
    _, _, said = run(recipe, tmp_path)
    assert said[0] == "4 results: 2 exist, 2 are missing"
    assert {
        f.name: (f / "evaluation" / "in-domain" / "run.trec").read_bytes() for f in cells.iterdir()
    } == before
    # More seeds are more cells.
    del recipe["systems"]["pooled"]["seeds"]
    _, _, said = run(recipe, tmp_path)
    assert said[0] == "5 results: 4 exist, 1 are missing"
    # Another setting is another cell, which does not replace this one by chance.
    recipe["training"]["learning_rate"] = 1e-3
    with pytest.raises(InputError, match=r"output: .* holds results of other settings \(learning_rate\)"):
        run(recipe, tmp_path)
    _, _, said = run(recipe, tmp_path, overwrite=True)
    assert said[0] == "5 results: 2 exist, 3 are missing", "zero-shot needs no training"


def test_edited_text_is_other_text(recipe, tmp_path):
    """Files of the same name, and a teacher of the same path, are known by what is in them."""
    recipe["systems"] = {"zero-shot": None, "pooled": {"loss": "pooled-mse", "seeds": 1, "languages": ["ny"]}}
    run(recipe, tmp_path)
    pairs = (tmp_path / "ny.tsv").read_text(encoding="utf-8")
    (tmp_path / "ny.tsv").write_text(pairs.replace("dog", "cat"), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"other settings \(the text of the bitext or of a collection, or a model\)"
    ):
        run(recipe, tmp_path)
    (tmp_path / "ny.tsv").write_text(pairs, encoding="utf-8")
    # Another question of the collection: asked again, with the student that was kept or a new one.
    queries = tmp_path / "collections" / "ny" / "queries.tsv"
    queries.write_text(queries.read_text().replace("galu", "mphaka"))
    _, _, said = run(recipe, tmp_path)
    assert said[0] == "3 results: 1 exist, 2 are missing"
    recipe["teacher"] = str(tmp_path / "other")
    from optical_rs.models import load_model

    other = load_model(tmp_path / "teacher")
    other[1].linear.weight.data *= -1
    other.save_pretrained(recipe["teacher"])
    with pytest.raises(InputError, match=r"other settings \(teacher\)"):
        run(recipe, tmp_path)


def test_a_made_teacher_is_made_again_of_other_text(recipe, tmp_path, tiny_encoder, pairs):
    recipe |= {"teacher": tiny_encoder, "dim": 4, "systems": {"zero-shot": None}, "out_of_domain": {}}
    for name in ("ny", "xx"):
        many = [f"{f} {g}\t{e} {h}" for f, e in pairs[:6] for g, h in pairs[:6]]
        (tmp_path / f"{name}.tsv").write_text("\n".join(many), encoding="utf-8")
    run(recipe, tmp_path)
    head = tmp_path / "out" / "teacher" / "1_Dense" / "model.safetensors"
    before = head.read_bytes()
    recipe["head_languages"] = ["ny"]
    assert run(recipe, tmp_path)[2][0] == "2 results: 2 exist, 0 are missing", "the same texts"
    for change in ({"dim": 3}, {"max_pairs": 20}):
        with pytest.raises(InputError, match=f"other settings .*{next(iter(change))}"):
            run(recipe | change, tmp_path)
        assert head.read_bytes() == before
    _, _, said = run(recipe | {"dim": 3}, tmp_path, overwrite=True)
    assert said[0] == "2 results: 0 exist, 2 are missing"
    assert head.read_bytes() != before


def test_a_collection_can_be_added_without_training_again(recipe, tmp_path, monkeypatch):
    recipe |= {"out_of_domain": {}, "seeds": 1}
    recipe["systems"]["pooled"] = {"loss": "pooled-mse"}
    run(recipe, tmp_path, keep="all")
    recipe["collections"] = {
        "other": {"collection": str(tmp_path / "collections" / "xx"), "queries": 6, "languages": ["ny"]}
    }
    monkeypatch.setattr(distillation, "fit", lambda *a, **k: pytest.fail("trained again"))
    report, failures, said = run(recipe, tmp_path, keep="all")
    assert failures == []
    assert said[0] == "4 results: 2 exist, 2 are missing"
    assert set(report["systems"]) == {"in-domain", "other"}
    assert set(report["systems"]["other"]) == {"ny"}
    assert report["collections"]["other"]["ny"]["queries"] == 6


def test_students_are_kept_as_asked(recipe, tmp_path):
    recipe["out_of_domain"], recipe["seeds"] = {}, 1
    recipe["systems"] |= {"pooled": {"loss": "pooled-mse"}, "greedy": {"loss": "greedy"}}
    # The queries of another file choose: those of the test never do.
    dev = tmp_path / "dev"
    shutil.copytree(tmp_path / "collections" / "ny", dev)
    (dev / "queries.tsv").write_text(
        "".join(f"q{i}\t{f} lero\n" for i, (f, _) in enumerate(PAIRS)), encoding="utf-8"
    )
    recipe["dev_collection"] = str(dev)
    out = tmp_path / "out"
    run(recipe, tmp_path)
    assert not list(out.glob("*/*/modules.json"))
    run(recipe, tmp_path, keep="best", overwrite=True)
    shutil.rmtree(out)
    run(recipe, tmp_path, keep="best")
    kept = sorted(f.parent.name for f in out.glob("*/*/modules.json"))
    assert kept == ["ny-0", "xx-0"]
    best = {
        f.parent.name: json.loads((f.parent / "optical.json").read_text())
        for f in out.glob("*/*/modules.json")
    }
    for file in out.glob("*/*/optical.json"):
        record = json.loads(file.read_text())
        if "dev_map" in record:
            assert record["dev_map"] <= best[file.parent.name]["dev_map"]
    recipe["dev_collection"] = recipe["collection"]
    with pytest.raises(InputError, match=r"dev_collection: .* has no dev queries; name another"):
        run(recipe, tmp_path, keep="best", overwrite=True)


def test_dev_queries_are_those_of_no_collection_that_is_asked(recipe, tmp_path):
    from optical_rs.experiment.workbench import Workbench

    dev = tmp_path / "dev"
    shutil.copytree(tmp_path / "collections" / "ny", dev)
    (dev / "queries.tsv").write_text("".join(f"q{i}\t{f} lero\n" for i, (f, _) in enumerate(PAIRS)))
    recipe |= {"dev_collection": str(dev), "out_of_domain": {}}
    assert Workbench(read(recipe, tmp_path), tmp_path / "out").dev("ny")[0] is not None
    # A dev query that is asked in the test, too, is none; of a collection that is tested itself, none is left.
    lines = (dev / "queries.tsv").read_text()
    (dev / "queries.tsv").write_text(lines.replace(f"{PAIRS[0][0]} lero", PAIRS[0][0]))
    assert set(Workbench(read(recipe, tmp_path), tmp_path / "out").dev("ny")[0].queries) == {
        f"q{i}" for i in range(1, 12)
    }
    recipe["collections"] = {"dev-too": str(dev)}
    with pytest.raises(InputError, match="has queries that systems are tested on"):
        Workbench(read(recipe, tmp_path), tmp_path / "out").dev("ny")


def test_a_student_of_both_sides_is_its_own_partner(recipe, tmp_path):
    recipe |= {"out_of_domain": {}, "seeds": 1, "languages": {"low": ["ny"]}}
    recipe["systems"]["hybrid"] = {"loss": "retrieval", "alpha": 0.5}
    report, failures, _ = run(recipe, tmp_path, keep="all")
    assert failures == []
    folder = tmp_path / "out" / "hybrid" / "ny-0"
    assert "teacher" not in json.loads((folder / "optical.json").read_text())
    found = optical_rs.evaluate_student(
        folder, str(tmp_path / "collections" / "ny"), cache=tmp_path / "cache"
    )
    assert found.result.mean["map"] == pytest.approx(
        report["measures"]["in-domain"]["map"]["hybrid"]["ny"]["mean"], abs=1e-4
    )


def test_cells_are_not_put_on_those_of_another_recipe(recipe, tmp_path):
    run(recipe, tmp_path)
    plain = {k: v for k, v in recipe.items() if k not in ("languages", "seeds", "out_of_domain")}
    plain |= {"bitext": str(tmp_path / "ny.tsv"), "collection": str(tmp_path / "collections" / "ny")}
    with pytest.raises(InputError, match="zero-shot is not of a run"):
        run(plain, tmp_path, overwrite=True)
    assert (tmp_path / "out" / "zero-shot" / "ny-0" / "optical.json").exists()


def test_what_was_taken_over_is_not_made_stale(recipe, tmp_path):
    recipe |= {"seeds": 1, "out_of_domain": {}}
    recipe["systems"]["g"] = {"loss": "greedy"}
    run(recipe, tmp_path)
    (tmp_path / "out").rename(tmp_path / "other")
    recipe["systems"]["g"] = {"loss": "pooled-mse"}
    run(recipe, tmp_path)
    recipe["systems"]["g"] = {"loss": "greedy"}
    report, _, said = run(recipe, tmp_path, overwrite=True, reuse=tmp_path / "other")
    assert said[:2] == [f"2 results taken from {tmp_path / 'other'}", "4 results: 4 exist, 0 are missing"]
    assert set(report["measures"]["in-domain"]["map"]) == {"zero-shot", "g"}


def test_how_tokens_are_kept_is_part_of_a_result(recipe, tmp_path):
    recipe |= {"seeds": 1, "out_of_domain": {}}
    run(recipe, tmp_path)
    with pytest.raises(InputError, match=r"other settings \(token_dtype\)"):
        run(recipe | {"token_dtype": "int8"}, tmp_path)


def test_two_runs_in_one_folder(recipe, tmp_path):
    import filelock

    (tmp_path / "out").mkdir()
    with (
        filelock.FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(InputError, match="another process writes"),
    ):
        run(recipe, tmp_path)


def test_foreign_folders_stay(recipe, tmp_path):
    for name in ("teacher", "zero-shot/ny-0"):
        folder = tmp_path / "out" / name
        folder.mkdir(parents=True)
        (folder / "thesis.tex").write_text("mine")
        with pytest.raises(InputError, match=f"{name} is not of a run"):
            run(recipe, tmp_path, overwrite=True)
        assert (folder / "thesis.tex").read_text() == "mine"
        shutil.rmtree(tmp_path / "out")


def test_cells_of_the_same_definition_are_taken_over(recipe, tmp_path):
    joint = {"loss": "pooled-mse", "joint": True}
    recipe["systems"] = {"zero-shot": None, "pooled": {"loss": "pooled-mse"}, "joint": joint}
    run(recipe, tmp_path)
    other = tmp_path / "other"
    (tmp_path / "out").rename(other)
    recipe["systems"] = {"zero-shot": None, "same": {"loss": "pooled-mse"}, "both": joint}
    recipe["systems"]["greedy"] = {"loss": "greedy", "seeds": 1, "languages": ["ny"]}
    _, failures, said = run(recipe, tmp_path, reuse=other)
    assert failures == []
    assert said[:2] == [f"8 results taken from {other}", "9 results: 8 exist, 1 are missing"]
    assert len(said) == 3, "one is made"
    # Each is that of its own language and seed.
    for mine, theirs in (("same", "pooled"), ("both", "joint"), ("zero-shot", "zero-shot")):
        made = sorted(other.glob(f"{theirs}/*"))
        assert made
        for cell in made:
            copy = tmp_path / "out" / mine / cell.name
            name = "evaluation/in-domain/run.trec"
            assert (copy / name).read_bytes() == (cell / name).read_bytes()
            record = json.loads((copy / "optical.json").read_text())
            language, seed = cell.name.split("-")
            assert [record[k] for k in ("system", "language", "seed")] == [mine, language, int(seed)]
    # Cells of another teacher are other cells.
    shutil.rmtree(tmp_path / "out")
    from optical_rs.models import load_model

    changed = load_model(tmp_path / "teacher")
    changed[1].linear.weight.data *= 2
    changed.save_pretrained(str(tmp_path / "teacher"))
    _, _, said = run(recipe, tmp_path, reuse=other)
    assert said[0] == f"0 results taken from {other}"
    with pytest.raises(InputError, match=r"reuse: .* is no folder"):
        run(recipe, tmp_path, reuse=tmp_path / "nothing")


def test_a_student_that_is_taken_over_has_a_card_of_its_own(recipe, tmp_path):
    recipe["systems"] = {
        "zero-shot": None,
        "pooled": {"loss": "pooled-mse", "seeds": 1, "languages": ["ny"]},
    }
    run(recipe, tmp_path, keep="all")
    other = tmp_path / "other"
    (tmp_path / "out").rename(other)
    run(recipe, tmp_path, keep="all", reuse=other)
    card = (tmp_path / "out" / "pooled" / "ny-0" / "README.md").read_text(encoding="utf-8")
    assert f'MultiVectorEncoder("{tmp_path / "out" / "pooled" / "ny-0"}")' in card
    assert str(other) not in card


def test_a_part_of_the_languages_has_the_teacher_of_all(recipe, tmp_path, tiny_encoder, pairs):
    recipe |= {"teacher": tiny_encoder, "dim": 4}
    # Enough texts for a head of four dimensions, and other ones in each language.
    for name, rows in (("ny", pairs), ("xx", pairs[::-1])):
        many = [f"{f}\t{e} {h}" for f, e in rows for _, h in rows[: len(rows) // 2]]
        (tmp_path / f"{name}.tsv").write_text("\n".join(many), encoding="utf-8")

    def weights(name, *arguments, **changed):
        read(recipe | changed, tmp_path)
        command = [str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / name), *arguments]
        main(command)
        return (tmp_path / name / "teacher" / "1_Dense" / "model.safetensors").read_bytes()

    whole = weights("whole")
    assert weights("part", "--languages", "ny") == whole
    alone = {"languages": {"low": ["ny"]}, "seeds": 1}
    assert weights("alone", **alone) != whole
    assert weights("shared", **alone, head_languages=["ny", "xx"]) == whole


def test_the_other_direction(recipe, tmp_path, pairs):
    pytest.importorskip("eflomal")
    for name in ("ny", "xx"):
        folder = tmp_path / "collections" / name
        queries, documents = (folder / f"{side}.tsv" for side in ("queries", "documents"))
        foreign, english = queries.read_text(), documents.read_text()
        queries.write_text(english)
        documents.write_text(foreign)
        (folder / "qrels.txt").write_text("".join(f"d{i} 0 q{i} 1\n" for i in range(len(pairs))))
    recipe |= {"side": "document", "seeds": 1, "out_of_domain": {}}
    recipe["systems"] |= {
        "psq": {"method": "psq"},
        "words": {"method": "bm25-translate", "translator": "dictionary"},
        "nmt": {"method": "nmt", "translator": "dictionary"},
        "pooled": {"loss": "pooled-mse"},
    }
    report, failures, _ = run(recipe, tmp_path)
    assert failures == []
    table = report["measures"]["in-domain"]["map"]
    # Words that were aligned find their sentences.
    assert table["psq"]["ny"]["mean"] > 0.6
    assert set(table) == set(recipe["systems"])


@pytest.mark.parametrize("name", ["ciral", "belebele", "clef_like", "mmarco_hybrid"])
def test_recipes_for_the_hub_run_on_stand_ins(name, recipe, tmp_path, pairs, tiny_encoder):
    pytest.importorskip("eflomal")
    file = RECIPES / f"{name}.yaml"
    real = yaml.safe_load(file.read_text(encoding="utf-8"))
    real["languages"] = {group: names[:1] for group, names in real["languages"].items()}
    for language in [name for group in real["languages"].values() for name in group]:
        shutil.copytree(
            tmp_path / "collections" / "ny", tmp_path / "collections" / language, dirs_exist_ok=True
        )
        shutil.copy(tmp_path / "ny.tsv", tmp_path / f"{language}.tsv")
    real |= {key: recipe[key] for key in ("teacher", "bitext", "collection")}
    real |= {"student": tiny_encoder if "student" in real else "", "seeds": 1}
    if real.get("side") == "document":
        for folder in (tmp_path / "collections").iterdir():
            queries, documents = ((folder / f"{side}.tsv") for side in ("queries", "documents"))
            foreign, english = queries.read_text(), documents.read_text()
            queries.write_text(english)
            documents.write_text(foreign)
            (folder / "qrels.txt").write_text("".join(f"d{i} 0 q{i} 1\n" for i in range(len(pairs))))
    for options in real["systems"].values():
        options.pop("languages", None)
        if options.get("translator"):
            options["translator"] = "dictionary"
    real["training"] |= {"per_device_train_batch_size": 4, "num_train_epochs": 1, "use_cpu": True}
    # A stand-in for an encoder is matched to its teacher by a few texts only.
    if real["student"]:
        many = [f"{f} {g}\t{e} {h}" for f, e in pairs for g, h in pairs]
        for file in tmp_path.glob("*.tsv"):
            file.write_text("\n".join(many), encoding="utf-8")
    report, failures, _ = run(real, tmp_path)
    assert failures == []
    assert set(report["measures"]["in-domain"]["map"]) == set(real["systems"])


def test_interpolated_students_share_their_training(recipe, tmp_path, monkeypatch):
    recipe["systems"] |= {
        "whole": {"loss": "pooled-mse", "seeds": 1, "languages": ["ny"]},
        "half": {"loss": "pooled-mse", "seeds": 1, "languages": ["ny"], "interpolate": 0.5},
        "hardly": {"loss": "pooled-mse", "seeds": 1, "languages": ["ny"], "interpolate": 1e-9},
    }
    fits = []
    monkeypatch.setattr(
        distillation, "fit", lambda *a, _fit=distillation.fit, **k: fits.append(1) or _fit(*a, **k)
    )
    run(recipe, tmp_path)
    assert len(fits) == 1
    found = {
        name: (tmp_path / "out" / name / "ny-0" / "evaluation" / "in-domain" / "run.trec")
        .read_text()
        .split("\n")
        for name in recipe["systems"]
    }
    scores = {name: [line.split()[4] for line in lines if line] for name, lines in found.items()}
    numbers = {name: np.array(row, dtype=float) for name, row in scores.items()}
    np.testing.assert_allclose(numbers["hardly"], numbers["zero-shot"], rtol=1e-6)
    for one, other in (("whole", "half"), ("half", "zero-shot")):
        assert np.abs(numbers[one] - numbers[other]).max() > 1e-4


def test_a_cell_that_fails_leaves_the_others(recipe, tmp_path, capsys, monkeypatch):
    recipe["systems"] |= {
        "nmt": {"method": "nmt", "translator": str(tmp_path / "nothing")},
        "both": {"method": "fusion", "of": ["nmt", "zero-shot"]},
    }
    report, failures, _ = run(recipe, tmp_path)
    assert len(failures) == 4
    assert failures[0].startswith("nmt, ny, seed 0: translator: cannot load")
    assert "both, ny, seed 0: of: 'nmt' has no run" in failures[2]
    assert set(report["measures"]["in-domain"]["map"]) == {"zero-shot"}
    assert "## Not made" in (tmp_path / "out" / "report.md").read_text()
    with pytest.raises(InputError, match="4 of the results failed") as error:
        main([str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "out")])
    assert error.value.status == 1


def test_the_command(recipe, tmp_path, capsys):
    recipe["systems"]["pooled"] = {"loss": "pooled-mse"}
    read(recipe, tmp_path)
    arguments = [str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "out")]
    main([*arguments, "--dry_run"])
    assert capsys.readouterr().out.count("to do") == 5
    assert not (tmp_path / "out").exists()
    main([*arguments, "--systems", "pooled", "--languages", "ny", "--seeds", "1"])
    assert "ny, in domain: 12 queries, 12 documents" in capsys.readouterr().out
    main([*arguments, "--report_only"])
    out = capsys.readouterr().out
    assert "| pooled |" in out
    main([*arguments, "--dry_run"])
    out = capsys.readouterr().out
    assert (out.count("done"), out.count("to do")) == (2, 3)


def test_a_dry_run_needs_no_data(recipe, tmp_path, capsys):
    recipe["bitext"] = recipe["collection"] = str(tmp_path / "nowhere-{language}.tsv")
    recipe["systems"] = {"zero-shot": None, "pooled": {"loss": "pooled-mse"}}
    read(recipe, tmp_path)
    arguments = [str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "out")]
    main([*arguments, "--dry_run"])
    out = capsys.readouterr().out
    assert "existing results are not checked: " in out
    assert "nowhere-ny.tsv" in out
    assert out.count("to do") == 5
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"nowhere-ny\.tsv"):
        main(arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side": "bth"}, "side: unknown side 'bth'; did you mean 'both'"),
        ({"sytems": {}}, "unknown key 'sytems'; did you mean 'systems'"),
        ({"languages": "ny"}, "languages: expected dict, got 'ny'"),
        ({"languages": {"a": ["../../victim"]}}, "not usable as the name of a folder"),
        ({"dropout": "none"}, "dropout: expected float or int or null, got 'none'"),
        ({"bitext": ""}, "bitext: expected sentence pairs, got nothing"),
        ({"collections": {"far": {"query": 3}}}, "collections: far: expected a collection"),
        ({"languages": {"a": ["ny"], "b": ["ny"]}}, "a language is in two groups"),
        ({"seeds": {"low": 1}}, "seeds: expected a number of seeds for 'high'"),
        ({"baseline": "zero"}, "no system 'zero'; did you mean 'zero-shot'"),
        ({"out_of_domain": {"yy": {}}}, "out_of_domain: no language 'yy'"),
        (
            {"out_of_domain": {"ny": {"collection": "x", "querys": 3}}},
            "out_of_domain: ny: unknown key 'querys'",
        ),
        ({"out_of_domain": {"ny": {"queries": 3}}}, "out_of_domain: ny: expected a collection"),
        ({"training": {"epochs": 3}}, "training: unknown key 'epochs'"),
        ({"systems": {"zero-shot": {"loss": "opticl"}}}, "unknown loss 'opticl'; did you mean 'optical'"),
        ({"systems": {"zero-shot": {"method": "psk"}}}, "unknown method 'psk'; did you mean 'psq'"),
        ({"systems": {"zero-shot": {"loss": "optical", "regg": 1}}}, "no option 'regg'; did you mean 'reg'"),
        ({"systems": {"zero-shot": {"method": "psq", "loss": None, "k2": 1}}}, "has no option"),
        ({"systems": {"zero-shot": {"loss": "retrieval", "mine": "x"}}}, "has no option 'mine'"),
        ({"systems": {"zero-shot": {"loss": "greedy", "interpolate": 2}}}, "interpolate: expected a share"),
        ({"systems": {"zero-shot": {"loss": "greedy", "order": "pur"}}}, "unknown order 'pur'"),
        ({"systems": {"zero-shot": {"loss": "greedy", "languages": ["fr"]}}}, "the recipe has no 'fr'"),
        ({"systems": {"zero-shot": {"method": "fusion", "of": ["x", "y"]}}}, "of: no system 'x'"),
        (
            {"systems": {"zero-shot": {"loss": "greedy", "schedule": [[1]], "proportions": [1]}}},
            "leave 'proportions' out",
        ),
        (
            {"systems": {"zero-shot": {"loss": "greedy", "bitext": ["a", "b"], "proportions": [1]}}},
            "proportions: expected 2, one for each bitext, got",
        ),
        (
            {"systems": {"zero-shot": {"loss": "greedy", "bitext": ["a", "b"], "schedule": [[1, 0], [1]]}}},
            "schedule: expected 2, one for each bitext, got",
        ),
        ({"systems": {"zero-shot": {"loss": "greedy", "schedule": 1}}}, "expected a list of stages"),
        ({"systems": {"a/b": {}}}, "not usable as the name of a folder"),
        ({"collection": "c/{lang}"}, "collection: expected no other place than"),
        (
            {"systems": {"zero-shot": {"loss": "greedy", "interpolate": "half"}}},
            "interpolate: expected a share",
        ),
        ({"systems": {"f": {"method": "fusion", "of": ["f", "f"]}}}, "'f' is a fusion itself"),
    ],
)
def test_bad_recipes(recipe, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        read({**recipe, **change}, tmp_path)


def test_a_report_of_nothing(recipe, tmp_path):
    with pytest.raises(InputError, match="nothing was made"):
        write_report(tmp_path, [], recipe=read(recipe, tmp_path))
    with pytest.raises(InputError, match=r"report_only: .*out holds no results of this recipe"):
        run(recipe, tmp_path, report_only=True)
    assert not (tmp_path / "out").exists()


#: Recipes of optical-rs teacher, which have no systems.
TEACHERS = {"english_teacher", "fewer_layers"}


@pytest.mark.parametrize("name", sorted({p.stem for p in RECIPES.glob("*.yaml")} - TEACHERS))
def test_the_recipes_that_come_along_are_valid(name):
    assert sum(map(len, cells_of(experiments.read_recipe(name)))) >= 4
