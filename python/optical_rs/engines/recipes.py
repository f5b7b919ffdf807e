"""Vectors in Vespa, and in Postgres with VectorChord: the schema, the ranking expression, and the texts in their form.

Both are servers that this package does not talk to. What is written here follows the documentation of Vespa 8 and of
VectorChord 1.1; it is tested as text, not against a server.
"""

import json
import re
from collections.abc import Iterator

import numpy as np

from ..errors import InputError
from ..similarity import TokenStore
from .common import About, batches

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_VESPA = {"text": "string", "numbers": "double", "true or false": "bool"}
_TAKEN = ("id", "document", "text", "tokens")


def vespa_schema(store: TokenStore, name: str = "passage", *, cells: str = "bfloat16") -> str:
    """A schema of Vespa for a store's texts: ``schemas/passage.sd`` of an application package.

    The rank profile ``maxsim`` scores every text that a query matches; ``bm25_maxsim`` scores the 200 that are best by
    words.

    Parameters
    ----------
    store : TokenStore
    name : str
        Of the schema.
    cells : {"float", "bfloat16"}
        How Vespa keeps tokens.

    Raises
    ------
    InputError
        A name that Vespa takes for none, or a field with values of several kinds.
    """
    _expect_name("name", name)
    if cells not in ("float", "bfloat16"):
        raise InputError(f"cells: expected float or bfloat16, got {cells!r}")
    about = About.of(store)
    own = ""
    for field, kinds in about.fields.items():
        _expect_name("store: field", field)
        if field in _TAKEN:
            raise InputError(f"store: field '{field}' has the name of a field that every text has")
        (*_, kind) = several = [k for k in kinds if k != "list"]
        if len(several) > 1 or kinds == ["list", "true or false"]:
            raise InputError(f"store: field '{field}': Vespa has no type for {' and '.join(kinds)}")
        kept = f"array<{_VESPA[kind]}>" if "list" in kinds else _VESPA[kind]
        own += f"""
        field {field} type {kept} {{
            indexing: attribute | summary
        }}"""
    return f"""schema {name} {{
    document {name} {{
        field id type string {{
            indexing: attribute | summary
        }}
        field document type string {{
            indexing: attribute | summary
        }}
        field text type string {{
            indexing: index | summary
            index: enable-bm25
        }}
        field tokens type tensor<{cells}>(token{{}}, x[{about.dim}]) {{
            indexing: attribute
        }}{own}
    }}
    rank-profile maxsim {{
        inputs {{
            query(q) tensor<float>(asked{{}}, x[{about.dim}])
        }}
        function max_sim() {{
            expression: sum(reduce(sum(query(q) * attribute(tokens), x), max, token), asked)
        }}
        first-phase {{
            expression: max_sim
        }}
    }}
    rank-profile bm25_maxsim inherits maxsim {{
        first-phase {{
            expression: bm25(text)
        }}
        second-phase {{
            rerank-count: 200
            expression: max_sim
        }}
    }}
}}
"""


def vespa_feed(store: TokenStore, name: str = "passage") -> Iterator[str]:
    """The texts of a store as lines for ``vespa feed``, one at a time.

    Parameters
    ----------
    store : TokenStore
    name : str
        Of the schema.
    """
    _expect_name("name", name)
    about = About.of(store)
    for part in batches(store):
        for text_id, tokens, text, fields in part:
            own = {"id": text_id, "document": about.document(text_id), "text": text, **fields}
            for field, kinds in about.fields.items():
                if "list" in kinds and field in fields and not isinstance(fields[field], list):
                    own[field] = [fields[field]]
            own["tokens"] = {"blocks": {str(i): _numbers(token) for i, token in enumerate(tokens)}}
            yield json.dumps({"put": f"id:{name}:{name}::{text_id}", "fields": own}, ensure_ascii=False)


def vespa_query(tokens: np.ndarray, name: str = "passage", k: int = 10, *, profile: str = "maxsim") -> str:
    """The body of a search request (``POST /search/``) for the tokens of one query.

    Parameters
    ----------
    tokens : (tokens, dim) array
    name : str
        Of the schema.
    k : int
    profile : str
        The rank profile.
    """
    _expect_name("name", name)
    return json.dumps(
        {
            "yql": f"select id, document, text from {name} where true",
            "ranking": profile,
            "hits": k,
            "input.query(q)": {"blocks": {str(i): _numbers(token) for i, token in enumerate(tokens)}},
        }
    )


def vectorchord_schema(store: TokenStore, name: str = "passages", *, refine: int = 1000) -> str:
    """SQL for Postgres with VectorChord: the table, its index, and a search.

    Parameters
    ----------
    store : TokenStore
    name : str
        Of the table.
    refine : int
        How many tokens, for each token of a query, are compared exactly (``vchordrq.maxsim_refine``).

    Raises
    ------
    InputError
        A name that is no plain identifier.
    """
    _expect_name("name", name)
    return f"""CREATE EXTENSION IF NOT EXISTS vchord CASCADE;

CREATE TABLE {name} (
    id text PRIMARY KEY,
    document text NOT NULL,
    text text NOT NULL,
    fields jsonb NOT NULL,
    tokens vector({store.dim})[] NOT NULL
);

-- The lines of vectorchord_rows follow the next line, and after them one that says \\.
COPY {name} FROM STDIN;

CREATE INDEX ON {name} USING vchordrq (tokens vector_maxsim_ops);
CREATE INDEX ON {name} USING gin (fields jsonb_path_ops);

-- The ten best; @# is the negative of MaxSim, with the text's tokens on the left. $1 is '{{"[0.1,…]","[0.2,…]"}}'.
SET vchordrq.maxsim_refine = {int(refine)};
SELECT id, document, text, fields, -(tokens @# $1::vector[]) AS score
FROM {name}
WHERE fields @> '{{"language": "en"}}'  -- if documents have the field
ORDER BY tokens @# $1::vector[]
LIMIT 10;
"""


def vectorchord_rows(store: TokenStore) -> Iterator[str]:
    """The texts of a store as lines for ``COPY … FROM STDIN``, one at a time.

    Parameters
    ----------
    store : TokenStore
    """
    about = About.of(store)
    for part in batches(store):
        for name, tokens, text, fields in part:
            said = json.dumps(fields, ensure_ascii=False, sort_keys=True)
            yield "\t".join(
                map(_copied, (name, about.document(name), text, said, vectorchord_tokens(tokens)))
            )


def vectorchord_tokens(tokens: np.ndarray) -> str:
    """Tokens of a text or a query as an array of vectors.

    Examples
    --------
    >>> import numpy as np
    >>> vectorchord_tokens(np.array([[0.6, 0.8], [0.0, 1.0]]))
    '{"[0.6,0.8]","[0,1]"}'
    """
    return "{" + ",".join(f'"[{",".join(f"{x:.7g}" for x in token)}]"' for token in tokens.tolist()) + "}"


def _copied(value: str) -> str:
    """A value in the text format of COPY."""
    if "\0" in value:
        raise InputError("store: Postgres keeps no text with a zero byte")
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _numbers(token: np.ndarray) -> list[float]:
    return [float(f"{x:.7g}") for x in token.tolist()]


def _expect_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(f"{what}: expected letters, digits and underscores, got {name!r}")
