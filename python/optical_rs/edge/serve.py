"""``application``: a search page for one index, on this machine."""

from pathlib import Path
from typing import Any

from ..errors import InputError, require
from ..similarity import TokenStore
from .encoder import Encoder
from .search import Hit, explain, search_texts

#: Characters of a query, and documents of a result page, at most.
LONGEST_QUERY = 2000
MOST_HITS = 100
_PAGE = Path(__file__).parent / "page"
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def application(
    encoder: Encoder,
    store: TokenStore,
    document_encoder: Encoder | None = None,
    coarse: TokenStore | None = None,
) -> Any:
    """The page and its two calls, as an ASGI application.

    ``/search?q=…&k=…`` gives ``{"hits": [{"rank", "document", "score", "text", "number"}]}``;
    ``/explain?q=…&number=…`` gives the tokens of both sides, their similarities, the matches of MaxSim and
    the transport plan. A wrong request is answered with status 400 and ``{"error": …}``.

    Parameters
    ----------
    encoder, store, document_encoder, coarse
        As for :func:`~optical_rs.edge.search.search_texts` and :func:`~optical_rs.edge.search.explain`.

    Returns
    -------
    starlette.applications.Starlette
    """
    require("starlette", "serve")
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Route

    def text_of(request: Request) -> str:
        query = request.query_params.get("q", "").strip()
        if not query:
            raise InputError("q: expected a query, got nothing")
        if len(query) > LONGEST_QUERY:
            raise InputError(f"q: expected at most {LONGEST_QUERY} characters, got {len(query)}")
        return query

    def number_of(request: Request, name: str, default: str, low: int, high: int) -> int:
        given = request.query_params.get(name, default)
        if not given.isascii() or not given.isdigit() or not low <= int(given) <= high:
            raise InputError(f"{name}: expected an integer from {low} to {high}, got {given[:20]!r}")
        return int(given)

    # Functions without `async` run in threads: a search does not hold up the page.
    def search(request: Request) -> Response:
        k = number_of(request, "k", "10", 1, MOST_HITS)
        hits = search_texts(encoder, store, [text_of(request)], k, coarse=coarse)[0]
        rows = [
            {"rank": rank, "document": h.document, "score": h.score, "text": h.text, "number": h.number}
            for rank, h in enumerate(hits, 1)
        ]
        return JSONResponse({"hits": rows}, headers=_HEADERS)

    def why(request: Request) -> Response:
        query = text_of(request)
        number = number_of(request, "number", "", 0, len(store) - 1)
        hit = Hit(store.ids[number], 0.0, store.contents[number], number)
        found = explain(encoder, store, query, hit, document_encoder=document_encoder)
        return JSONResponse(
            {
                "query": found.query,
                "document": found.document,
                "similarity": found.similarity.round(4).tolist(),
                "matches": found.matches.tolist(),
                "plan": found.plan.round(6).tolist(),
            },
            headers=_HEADERS,
        )

    def file(name: str, kind: str) -> Any:
        return Route(
            "/" if name == "index.html" else f"/{name}",
            lambda _: FileResponse(_PAGE / name, media_type=kind, headers=_HEADERS),
        )

    def refused(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=400, headers=_HEADERS)

    return Starlette(
        routes=[
            file("index.html", "text/html"),
            file("page.js", "text/javascript"),
            file("page.css", "text/css"),
            Route("/search", search),
            Route("/explain", why),
        ],
        exception_handlers={InputError: refused},
    )
