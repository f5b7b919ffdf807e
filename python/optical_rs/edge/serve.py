"""``application``: a search page for an index, on this machine."""

import asyncio
import contextlib
import ipaddress
import json
import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import InputError, require
from .search import Index

#: Characters of a query, documents of a result page and characters of each, at most.
LONGEST_QUERY = 2000
MOST_HITS = 100
LONGEST_TEXT = 2000
#: Examples of queries, and characters of each.
EXAMPLES = 3
EXAMPLE = 60
#: Pairs of tokens in an explanation at most: its answer is then some megabyte.
MOST_PAIRS = 1 << 16
#: Searches and explanations that are computed at a time; others wait, without a thread. Each uses all cores.
AT_ONCE = 2
#: Connections at a time whose requests are answered, bytes of a request's head, and seconds after which a connection is
#: closed that brings no request or takes nothing of its answer. Twice as many connections are not held at all.
CONNECTIONS = 256
LARGEST_HEAD = 16 << 10
IDLE = 10.0
_PAGE = Path(__file__).parent / "page"
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def application(index: Index, *, hosts: Sequence[str] = ()) -> Any:
    """The page and its three calls, as an ASGI application.

    ``/search?q=…&k=…`` gives ``{"hits": [{"rank", "document", "score", "text", "number", "fields", "similarity", "words",
    "snippet"}]}`` with the first 2,000 characters of each text; ``&lexical=true`` ranks by words, too, and
    ``&filters={"year": {"gte": 1990}}`` has the filters of :meth:`Index.search` as JSON.
    ``/explain?q=…&number=…`` gives the tokens and words of both sides, their similarities, the
    matches of MaxSim and the transport plan; ``/about`` names the index, its fields and the model, and gives examples
    of queries. A wrong request is answered with status 400 and ``{"error": …}``. Two
    of them are computed at a time, so that memory does not grow with their number.

    Parameters
    ----------
    index : Index
    hosts : sequence of str, optional
        Names under which the page may be asked for, besides IP addresses and ``localhost``. Any other is refused: a
        page of another site could else have its own name lead here, and read what is answered.

    Returns
    -------
    starlette.applications.Starlette
    """
    if not isinstance(index, Index):
        raise InputError(f"index: expected an Index, got {index!r:.100}")
    require("starlette", "serve")
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, Response
    from starlette.routing import Route

    def answer(content: Any, status: int = 200) -> Response:
        # A half of a character, which a filter or the name of a folder may hold, has no bytes but an escape in JSON.
        said = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return Response(said.encode("utf-8", "backslashreplace"), status, _HEADERS, "application/json")

    def text_of(request: Request) -> str:
        query = request.query_params.get("q", "").strip()
        if not query:
            raise InputError("q: expected a query, got nothing")
        if len(query) > LONGEST_QUERY:
            raise InputError(f"q: expected at most {LONGEST_QUERY} characters, got {len(query)}")
        return query

    def number_of(request: Request, name: str, default: str, low: int, high: int) -> int:
        given = request.query_params.get(name, default)
        if not (given.isascii() and given.isdigit() and len(given) < 20 and low <= int(given) <= high):
            raise InputError(f"{name}: expected an integer from {low} to {high}, got {given[:20]!r}")
        return int(given)

    def filters_of(request: Request) -> Any:
        given = request.query_params.get("filters", "")
        try:
            return json.loads(given) if given else None
        except (ValueError, RecursionError) as error:
            raise InputError(f"filters: expected JSON ({error})") from None

    def flag_of(request: Request, name: str) -> bool:
        given = request.query_params.get(name, "false")
        if given not in ("true", "false"):
            raise InputError(f"{name}: expected true or false, got {given[:20]!r}")
        return given == "true"

    # So few threads, as memory that a thread gives back stays with it; a search does not hold up the page.
    threads = ThreadPoolExecutor(AT_ONCE)

    def in_turn(work: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def route(request: Request) -> Response:
            return await asyncio.get_running_loop().run_in_executor(threads, work, request)

        return route

    def search(request: Request) -> Response:
        k = number_of(request, "k", "10", 1, MOST_HITS)
        query, filters, lexical = text_of(request), filters_of(request), flag_of(request, "lexical")
        hits = index.search(query, k, filters=filters, lexical=lexical, snippets=True)
        rows = [
            {
                "rank": rank,
                "document": h.document,
                "score": h.score,
                "text": h.text if len(h.text) <= LONGEST_TEXT else f"{h.text[:LONGEST_TEXT]}…",
                "number": h.number,
                "fields": h.fields,
                "similarity": h.similarity if math.isfinite(h.similarity) else None,
                "words": h.words,
                "snippet": h.snippet,
            }
            for rank, h in enumerate(hits, 1)
        ]
        return answer({"hits": rows})

    def why(request: Request) -> Response:
        query = text_of(request)
        number = number_of(request, "number", "", 0, len(index) - 1)
        shard, own = index.locate(number)
        pairs = len(index.encoder.tokens(query, "query")) * len(shard[own])
        if pairs > MOST_PAIRS:
            raise InputError(f"q: expected at most {MOST_PAIRS} pairs of tokens to explain, got {pairs}")
        found = index.explain(query, number)
        return answer(
            {
                "query": found.query,
                "document": found.document,
                "similarity": found.similarity.round(4).tolist(),
                "matches": found.matches.tolist(),
                "plan": found.plan.round(6).tolist(),
                "query_words": found.query_words[0],
                "query_of": found.query_words[1].tolist(),
                "document_words": found.document_words[0],
                "document_of": found.document_words[1].tolist(),
            }
        )

    def about(_: Request) -> Response:
        names = " + ".join(shard.path.name for shard in index.shards)
        known = {"collection": names, "texts": len(index.live()), "model": index.encoder.path.name}
        known |= {"fields": index.fields, "examples": _examples(index)}
        return answer(known)

    def file(name: str, kind: str) -> Any:
        return Route(
            "/" if name == "index.html" else f"/{name}",
            lambda _: FileResponse(_PAGE / name, media_type=kind, headers=_HEADERS),
        )

    class ExpectedHost:
        """Refuses requests for a name that is not this page's."""

        def __init__(self, app: Any):
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http" or is_own_host(Request(scope).headers.get("host", ""), hosts):
                await self.app(scope, receive, send)
            else:
                error = InputError("host: this page is not served under that name")
                await refused(Request(scope), error)(scope, receive, send)

    def refused(_: Request, error: Exception) -> Response:
        return answer({"error": str(error)}, 400)

    return Starlette(
        routes=[
            file("index.html", "text/html"),
            file("page.js", "text/javascript"),
            file("page.css", "text/css"),
            Route("/about", in_turn(about)),
            Route("/search", in_turn(search)),
            Route("/explain", in_turn(why)),
        ],
        middleware=[Middleware(ExpectedHost)],
        exception_handlers={InputError: refused},
    )


def _examples(index: Index) -> list[str]:
    """The first words of some texts of an index: queries that find something."""
    live = index.live()
    texts = map(index.text, live[:: max(1, len(live) // (2 * EXAMPLES))].tolist())
    starts = (" ".join(text.split()[:6])[:EXAMPLE].strip(" ,;:-–") for text in texts)
    return list(dict.fromkeys(start for start in starts if start))[:EXAMPLES]


def is_own_host(header: str, names: Sequence[str]) -> bool:
    """Whether a ``Host`` header names an IP address, ``localhost`` or one of some names.

    Examples
    --------
    >>> [is_own_host(h, ["Library"]) for h in ("127.0.0.1:8080", "[::1]", "localhost", "library:80", "evil.example")]
    [True, True, True, True, False]
    """
    name = header.lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    else:
        name = name.rpartition(":")[0] if name.count(":") == 1 else name
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return name in {"localhost", *(own.lower() for own in names)}


def listen(app: Any, host: str, port: int) -> Any:
    """A server for :func:`application` with limits on connections, heads and idle time; ``.run()`` starts it.

    Returns
    -------
    uvicorn.Server
    """
    uvicorn = require("uvicorn", "serve")
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        """Closes a connection on which nothing comes about, however much of a head or of a body it sends."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > 2 * CONNECTIONS:
                transport.abort()
            self.loop.call_later(IDLE, self.look, None, 0)

        def look(self, cycle: Any, unsent: int) -> None:
            """End what is as it was the last time, unless its answer is being computed."""
            if self not in self.connections:
                return
            now = self.transport.get_write_buffer_size()
            computed = self.cycle is not None and not self.cycle.response_complete and not now
            if not computed and (self.cycle, now) == (cycle, unsent):
                self.transport.abort()
            else:
                self.loop.call_later(IDLE, self.look, self.cycle, now)

        def send_400_response(self, msg: str) -> None:
            if self.cycle is not None:
                self.cycle.disconnected = True  # its answer has no place behind this one
            try:
                super().send_400_response(msg)
            except h11.LocalProtocolError:  # what is no HTTP came behind a request that has its answer
                self.transport.abort()

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Impatient,
        ws="none",
        lifespan="off",
        log_level="warning",
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=LARGEST_HEAD,
    )
    return uvicorn.Server(config)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens; with port 0 the system chooses one.

    Raises
    ------
    InputError
        An address or a port that this machine has not, or that is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"host, port: cannot listen at {host}:{port} ({reason})") from None


def own_names(host: str) -> list[str]:
    """Names of this machine, for a page that listens at ``host``."""
    own = socket.gethostname()
    return [host, own, f"{own}.local"]
