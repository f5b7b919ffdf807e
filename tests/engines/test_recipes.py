"""Schemas and texts for servers that are not here, as text."""

import json

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.edge.fields import Fields
from optical_rs.engines import recipes
from optical_rs.similarity import TokenStore


@pytest.fixture
def store(tmp_path):
    store = TokenStore.create(tmp_path / "store", 2, {"window": 4})
    store.append(
        [np.eye(2), [[0.6, 0.8]], np.zeros((0, 2))], ["a#0", "b#0", "c#0"], ["one\ttab", "new\nline \\", "x"]
    )
    Fields(store.path).write([("a", {"year": 1995, "tag": ["x", "y"]}), ("b", {"tag": "z", "seen": True})])
    store.delete(["c#0"])
    return store


def test_vespa(store):
    schema = recipes.vespa_schema(store)
    # https://docs.vespa.ai/en/reference/schemas/schemas.html
    for line in (
        "schema passage {",
        "    document passage {",
        "        field tokens type tensor<bfloat16>(token{}, x[2]) {",
        "        field year type double {",
        "        field tag type array<string> {",
        "        field seen type bool {",
        "            query(q) tensor<float>(asked{}, x[2])",
        "            expression: sum(reduce(sum(query(q) * attribute(tokens), x), max, token), asked)",
        "            rerank-count: 200",
    ):
        assert line in schema.splitlines(), line
    assert schema.count("{\n") == schema.count("}\n"), "blocks are closed"
    lines = [json.loads(line) for line in recipes.vespa_feed(store)]
    assert lines[0] == {
        "put": "id:passage:passage::a#0",
        "fields": {
            "id": "a#0",
            "document": "a",
            "text": "one\ttab",
            "year": 1995,
            "tag": ["x", "y"],
            "tokens": {"blocks": {"0": [1.0, 0.0], "1": [0.0, 1.0]}},
        },
    }
    assert lines[1]["fields"]["tag"] == ["z"], "the schema has a list"
    assert len(lines) == 2
    asked = json.loads(recipes.vespa_query(np.eye(2, dtype=np.float32), k=3))
    assert asked["ranking"] == "maxsim"
    assert asked["input.query(q)"] == {"blocks": {"0": [1.0, 0.0], "1": [0.0, 1.0]}}


def test_the_expression_of_vespa_is_maxsim(store):
    """The expression read as what it says: tensors with named dimensions."""
    rng = np.random.default_rng(0)
    query, tokens = rng.normal(size=(3, 2)), rng.normal(size=(5, 2))
    line = next(line for line in recipes.vespa_schema(store).splitlines() if "reduce(" in line)
    dimensions = {"asked": 0, "token": 1, "x": 2}
    names = {
        "query": lambda name: query[:, None, :],
        "attribute": lambda name: tokens[None, :, :],
        "sum": lambda x, d: x.sum(dimensions[d], keepdims=True),
        "reduce": lambda x, how, d: getattr(x, how)(dimensions[d], keepdims=True),
    }
    words = {**names, **{d: d for d in dimensions}, "q": "q", "tokens": "tokens", "max": "max"}
    score = eval(line.partition("expression: ")[2], words)
    assert score.item() == pytest.approx((query @ tokens.T).max(1).sum())


def test_vectorchord(store):
    sql = recipes.vectorchord_schema(store, refine=500)
    # https://docs.vectorchord.ai/vectorchord/usage/indexing-with-maxsim-operators.html
    for line in (
        "CREATE EXTENSION IF NOT EXISTS vchord CASCADE;",
        "    tokens vector(2)[] NOT NULL",
        "CREATE INDEX ON passages USING vchordrq (tokens vector_maxsim_ops);",
        "SET vchordrq.maxsim_refine = 500;",
        "ORDER BY tokens @# $1::vector[]",
    ):
        assert line in sql.splitlines(), line
    assert list(recipes.vectorchord_rows(store)) == [
        'a#0\ta\tone\\ttab\t{"tag": ["x", "y"], "year": 1995}\t{"[1,0]","[0,1]"}',
        'b#0\tb\tnew\\nline \\\\\t{"seen": true, "tag": "z"}\t{"[0.6,0.8]"}',
    ]


def test_what_does_not_fit(store, tmp_path):
    for call, message in (
        (
            lambda: recipes.vespa_schema(store, "a-b"),
            "name: expected letters, digits and underscores, got 'a-b'",
        ),
        (lambda: recipes.vespa_schema(store, cells="int8"), "cells: expected float or bfloat16, got 'int8'"),
        (lambda: recipes.vectorchord_schema(store, "x; drop"), "name: expected letters"),
        (lambda: list(recipes.vespa_feed(store, "a b")), "name: expected letters"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    for fields, message in (
        ({"a b": 1}, "store: field: expected letters"),
        ({"text": 1}, "field 'text' has the name of a field that every text has"),
        ({"x": [1, "a"]}, "field 'x': Vespa has no type for list and numbers and text"),
    ):
        Fields(store.path).write([("a", fields)])
        with pytest.raises(InputError, match=message):
            recipes.vespa_schema(store)
    zero = TokenStore.create(tmp_path / "zero", 2)
    zero.append([np.eye(2)], ["a"], ["\0"])
    with pytest.raises(InputError, match="Postgres keeps no text with a zero byte"):
        list(recipes.vectorchord_rows(zero))
