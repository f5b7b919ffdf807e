"""The search page: its calls, its limits, and in a real browser."""

import concurrent.futures
import contextlib
import importlib.util
import re
import shutil
import socket
import threading
import time
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from optical_rs import InputError
from optical_rs.cli.serve import main as serve_main
from optical_rs.edge import Encoder
from optical_rs.edge.export import export
from optical_rs.edge.index import index
from optical_rs.edge.search import Index
from optical_rs.edge.serve import LONGEST_QUERY, application, bound, listen

pytest.importorskip("onnxscript")
pytest.importorskip("httpx")
testclient = pytest.importorskip("starlette.testclient")

EVIL = '<img src=x onerror="document.title=1"><script>document.title=2</script> the fire'


@pytest.fixture(scope="module")
def app(teacher, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    export(teacher, folder / "model", precisions=["float32"])
    encoder = Encoder(folder / "model")
    documents = [(f"d{i}", english, {"number": i}) for i, (_, english) in enumerate(pairs)]
    index(encoder, [*documents, ("<b>evil</b>", EVIL, {})], folder / "store", dtype="float32")
    return application(Index(folder / "store", encoder), hosts=["shelf.local"])


@pytest.fixture
def client(app):
    return testclient.TestClient(app, base_url="http://localhost")


def test_search_and_explain(client):
    found = client.get("/search", params={"q": "the dog runs fast", "k": 3}).json()["hits"]
    assert [h["rank"] for h in found] == [1, 2, 3]
    assert [h["score"] for h in found] == sorted((h["score"] for h in found), reverse=True)
    why = client.get("/explain", params={"q": "the dog runs fast", "number": found[0]["number"]}).json()
    similarity = np.array(why["similarity"])
    assert similarity.shape == (len(why["query"]), len(why["document"])) == np.array(why["plan"]).shape
    assert (similarity.argmax(axis=1) == why["matches"]).all()
    assert similarity.max(axis=1).sum() == pytest.approx(found[0]["score"], abs=1e-2)
    # Words instead of tokens: none for [CLS], "query", ":" and [SEP].
    assert why["query_words"] == ["the", "dog", "runs", "fast"]
    assert why["query_of"] == [-1, -1, -1, 0, 1, 2, 3, -1]
    assert why["document_words"] == found[0]["text"].split()
    assert len(why["document_of"]) == len(why["document"])


def test_words_and_filters(client):
    asked = {"q": "porridge", "lexical": "true", "filters": '{"number": {"gte": 2, "lt": 6}}'}
    first, *others = client.get("/search", params=asked).json()["hits"]
    assert (first["text"], first["fields"]) == ("mother cooks porridge", {"number": 4})
    assert first["words"] > 0 == others[0]["words"]
    assert first["snippet"] == first["text"]
    assert {hit["fields"]["number"] for hit in [first, *others]} == {2, 3, 4, 5}
    # What is shown as MaxSim is what a search by meaning alone gives.
    alone = client.get("/search", params={"q": "porridge", "k": 13}).json()["hits"]
    assert first["similarity"] == {hit["document"]: hit["score"] for hit in alone}[first["document"]]


def test_index_and_model_are_named(client):
    about = client.get("/about").json()
    examples = about.pop("examples")
    assert about == {"collection": "store", "texts": 13, "model": "model", "fields": ["number"]}
    assert len(set(examples)) == 3
    for example in examples:
        assert client.get("/search", params={"q": example}).json()["hits"][0]["text"].startswith(example)


@pytest.mark.parametrize(
    ("path", "parameters", "message"),
    [
        ("/search", {}, "q: expected a query"),
        ("/search", {"q": "  "}, "q: expected a query"),
        ("/search", {"q": "x" * (LONGEST_QUERY + 1)}, "q: expected at most 2000 characters"),
        ("/search", {"q": "x", "k": "0"}, "k: expected an integer from 1 to 100"),
        ("/search", {"q": "x", "k": "many"}, "k: expected an integer"),
        ("/explain", {"q": "x"}, "number: expected an integer"),
        ("/explain", {"q": "x", "number": "999"}, "number: expected an integer from 0 to 12"),
        ("/explain", {"q": "x", "number": "-1"}, "number: expected an integer"),
        ("/explain", {"q": "x", "number": "9" * 5000}, "number: expected an integer"),
        ("/search", {"q": "x", "k": str(2**63)}, "k: expected an integer from 1 to 100"),
        ("/search", {"q": "x", "lexical": "yes"}, "lexical: expected true or false, got 'yes'"),
        ("/search", {"q": "x", "filters": "{"}, "filters: expected JSON"),
        ("/search", {"q": "x", "filters": "[" * 5000}, "filters: expected JSON"),
        ("/search", {"q": "x", "filters": "3"}, "filters: expected a dict"),
        (
            "/search",
            {"q": "x", "filters": '{"numbr": 3}'},
            "no document has a field 'numbr'; did you mean 'number'",
        ),
    ],
)
def test_wrong_requests(client, path, parameters, message):
    response = client.get(path, params=parameters)
    assert response.status_code == 400
    assert message in response.json()["error"]


def test_the_page_runs_nothing_but_its_own_script(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "innerHTML" not in client.get("/page.js").text
    assert client.get("/page.css").status_code == 200
    assert client.get("/../edge.json").status_code == 404


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:8080", "192.168.1.7:80", "[::1]:8080", "Shelf.local"]
)
def test_own_hosts_are_answered(app, host):
    assert testclient.TestClient(app).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", ""])
@pytest.mark.parametrize("path", ["/", "/search?q=fire", "/explain?q=fire&number=0", "/page.js", "/nothing"])
def test_other_hosts_are_refused(app, host, path):
    response = testclient.TestClient(app).get(path, headers={"host": host})
    assert response.status_code == 400
    assert response.json() == {"error": "host: this page is not served under that name"}


@pytest.fixture(scope="module")
def with_empty_texts(teacher, tmp_path_factory):
    """A page whose model leaves some words out, so that a text may be without tokens."""
    folder = tmp_path_factory.mktemp("empty")
    export(teacher, folder / "model", precisions=["float32"])
    encoder = Encoder(folder / "model")
    # Words of every text, and all that surrounds them.
    left_out = encoder._tokenizer.encode("query : passage : the fire").ids
    encoder._skip = {role: np.array(left_out, dtype=np.int64) for role in ("query", "document")}
    store = index(encoder, {"empty": "the fire", "full": "the dog runs"}, folder / "store", dtype="float32")
    assert [len(store[i]) for i in range(2)] == [0, 2]
    page = application(Index(folder / "store", encoder))
    return testclient.TestClient(page, base_url="http://localhost")


@pytest.mark.parametrize("query", ["the fire", "the dog"])
def test_texts_without_tokens_are_no_failure(with_empty_texts, query):
    found = with_empty_texts.get("/search", params={"q": query})
    assert found.status_code == 200
    # A query without tokens likes all texts alike.
    scores = {hit["document"]: hit["score"] for hit in found.json()["hits"]}
    assert scores == {"full": 0, "empty": 0} if query == "the fire" else scores.keys() == {"full"}
    by_words = with_empty_texts.get("/search", params={"q": query, "lexical": "true"}).json()["hits"]
    assert {hit["document"] for hit in by_words} == {"full", "empty"}
    for number in (0, 1):
        why = with_empty_texts.get("/explain", params={"q": query, "number": number})
        assert why.status_code == 200
        assert np.array(why.json()["plan"]).size == len(why.json()["query"]) * len(why.json()["document"])


def test_answers_are_bounded(app, client, monkeypatch):
    monkeypatch.setattr("optical_rs.edge.serve.LONGEST_TEXT", 7)
    hits = client.get("/search", params={"q": "the dog runs fast"}).json()["hits"]
    assert all(len(hit["text"]) == 8 and hit["text"].endswith("…") for hit in hits)
    monkeypatch.setattr("optical_rs.edge.serve.MOST_PAIRS", 20)
    refused = client.get("/explain", params={"q": "the dog runs fast", "number": 0})
    assert refused.status_code == 400
    assert "q: expected at most 20 pairs of tokens to explain, got" in refused.json()["error"]


def test_many_at_once_are_all_answered_two_at_a_time(app, monkeypatch):
    import httpx
    from optical_rs.edge import serve

    at_once, most, lock = 0, 0, threading.Lock()

    def counted(real):
        def count(*arguments, **options):
            nonlocal at_once, most
            with lock:
                at_once += 1
                most = max(most, at_once)
            time.sleep(0.002)
            try:
                return real(*arguments, **options)
            finally:
                with lock:
                    at_once -= 1

        return count

    for name in ("explain", "search"):
        monkeypatch.setattr(serve.Index, name, counted(getattr(serve.Index, name)))
    with served(app) as address, concurrent.futures.ThreadPoolExecutor(60) as pool, httpx.Client() as caller:
        paths = ["search?q=the fire", "explain?q=the fire&number=3"] * 60
        answers = list(pool.map(lambda path: caller.get(address + path, timeout=60).status_code, paths))
    assert set(answers) == {200}
    assert most == serve.AT_ONCE


def place_of(address):
    return "127.0.0.1", int(address.rstrip("/").rpartition(":")[2])


def test_heads_and_idle_connections_have_limits(app, monkeypatch):
    monkeypatch.setattr("optical_rs.edge.serve.IDLE", 0.2)
    with served(app) as address:
        place = place_of(address)
        with (
            socket.create_connection(place, timeout=20) as idle,
            socket.create_connection(place, timeout=20) as slow,
        ):
            slow.sendall(b"GET / HTTP/1.1\r\nHost: local")
            assert idle.recv(100) == b""
            assert slow.recv(100) == b""
        with socket.create_connection(place, timeout=20) as large:
            large.sendall(b"GET /?q=" + b"x" * 40_000)
            assert b" 400 " in large.recv(1000)
        with socket.create_connection(place, timeout=20) as good:
            good.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in good.recv(1000)


def answered(connection):
    """What comes until the other side ends the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            found += part
    return found


HEAD = b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"\r\nGET / HTTP/1.1\r\nHost: local",
        HEAD + b"Content-Length: 100000\r\n\r\nhalf",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffff\r\nhalf",
    ],
    ids=["a second head", "a body", "a body in chunks"],
)
def test_half_a_request_behind_an_answer_ends(app, monkeypatch, sent):
    monkeypatch.setattr("optical_rs.edge.serve.IDLE", 0.5)
    with served(app) as address, socket.create_connection(place_of(address), timeout=20) as half:
        half.sendall(sent)
        # Dripping on does not keep a connection.
        half.settimeout(0.05)
        found, end = b"", time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                if not (part := half.recv(1 << 16)):
                    break
                found += part
                continue
            try:
                half.sendall(b"x")
            except OSError:
                break
        else:
            raise AssertionError("still open")
    assert found.startswith(b"HTTP/1.1 200 ")


def test_answers_that_nobody_takes_end(app, monkeypatch):
    monkeypatch.setattr("optical_rs.edge.serve.IDLE", 0.5)
    with served(app) as address, socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.settimeout(20)
        stalled.connect(place_of(address))
        stalled.sendall((HEAD + b"\r\n") * 2000)  # ten megabytes to take, which nobody does
        end = time.monotonic() + 120
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while time.monotonic() < end:
                stalled.sendall(b"x")
                time.sleep(0.1)
            raise AssertionError("still open")


def test_no_more_connections_are_held_than_there_may_be(app, monkeypatch):
    from optical_rs.edge import serve

    monkeypatch.setattr(serve, "CONNECTIONS", 4)
    with served(app) as address, contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection(place_of(address), timeout=20)) for _ in range(8)
        ]
        time.sleep(0.2)
        over = stack.enter_context(socket.create_connection(place_of(address), timeout=20))
        assert answered(over) == b""
        held[0].sendall(HEAD + b"\r\n")
        assert b" 503 " in held[0].recv(1000)
        for connection in held[1:]:
            connection.close()
        time.sleep(0.2)
        good = stack.enter_context(socket.create_connection(place_of(address), timeout=20))
        good.sendall(HEAD + b"\r\n")
        assert b" 200 " in good.recv(1000)


@pytest.mark.parametrize(
    "sent",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"BREW /search?q=x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET http://localhost/search?q=%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        HEAD + b"Range: bytes=0-1,3-4,9-\r\nConnection: close\r\n\r\n",
        HEAD + b"Range: bytes=" + b"0-," * 4000 + b"\r\nConnection: close\r\n\r\n",
        HEAD + b"Range: bytes=9-1\r\nConnection: close\r\n\r\n",
        HEAD + b"Range: lines=\xff\r\nConnection: close\r\n\r\n",
        HEAD + b"If-Range: \xff\r\nIf-None-Match: *\r\nRange: bytes=99999999-\r\nConnection: close\r\n\r\n",
        HEAD + b"Upgrade: websocket\r\nConnection: upgrade, close\r\n\r\n",
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "in parts"])
def test_no_bytes_make_a_failure(app, capsys, sent, late):
    with served(app) as address, socket.create_connection(place_of(address), timeout=20) as strange:
        if late:  # the answer is out before the rest comes
            at = sent.find(b"\r\n\r\n") + 4
            strange.sendall(sent[:at])
            time.sleep(0.1)
            sent = sent[at:]
        with contextlib.suppress(OSError):
            strange.sendall(sent)
            strange.shutdown(socket.SHUT_WR)
        found = answered(strange)
        assert re.findall(rb"^HTTP/1.1 5\d\d", found, re.M) == []
        with socket.create_connection(place_of(address), timeout=20) as good:
            good.sendall(HEAD + b"\r\n")
            assert b" 200 " in good.recv(1000)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "ERROR" not in said


@pytest.mark.parametrize(
    "text", ["\0", "\ud800", "a\0b", "\u202e", "\U0010ffff", "é" * 2000, "\r\n", "x" * 2000]
)
def test_any_characters_are_text(client, text):
    asked = urllib.parse.urlencode({"q": text}, errors="surrogatepass")
    for path in ("/search?", "/explain?number=0&"):
        response = client.get(path + asked)
        assert response.status_code == (400 if not text.strip() else 200)
        response.json()


@pytest.mark.parametrize(
    "filters",
    [
        r'{"\ud800": 1}', r'{"number": "\ud800"}', '{"number": NaN}', '{"number": {"gte": -Infinity}}',
        '{"number": {"lt": 1e999}}', '{"number": {"lt": ' + "9" * 4000 + "}}", '{"number": ["a", 1, true, 2.5]}',
        '{"number": []}', '{"number": null}', '{"number": {}}', '{"number": {"lt": "a"}}', '{"": ""}', "[]", '"a"',
    ],
)  # fmt: skip
def test_any_filters_are_answered(client, filters):
    response = client.get("/search", params={"q": "fire", "filters": filters})
    assert response.status_code in (200, 400)
    response.json()


def test_an_address_that_cannot_be_had_is_one_line(teacher, tmp_path, capsys):
    export(teacher, tmp_path / "model", precisions=["float32"])
    # A blank text is no query, and stands in the way of none.
    index(Encoder(tmp_path / "model"), {"blank": " ", "d": "the fire"}, tmp_path / "store")
    arguments = [str(tmp_path / "store"), "--model", str(tmp_path / "model")]
    with bound("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        for given, message in (
            (["--port", port], rf"cannot listen at 127\.0\.0\.1:{port} \("),
            (["--port", "99999"], "cannot listen at 127.0.0.1:99999 "),
            (["--port", "-1"], "cannot listen at 127.0.0.1:-1 "),
            (["--host", "300.1.1.1"], "cannot listen at 300.1.1.1:8080 "),
        ):
            with pytest.raises(InputError, match=message) as caught:
                serve_main([*arguments, *given])
            assert "\n" not in str(caught.value)
    assert not capsys.readouterr().out, "no address is announced that is not listened at"


@contextlib.contextmanager
def served(app):
    pytest.importorskip("uvicorn")
    server = listen(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as made:
        made.implicitly_wait(10)
        yield made


def accessible(browser):
    """What is shown breaks none of axe-core's rules, in light and in dark; without axe-core nothing is looked at."""
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None:
        return
    # The script alone is used, so that nothing of the package is imported.
    script = Path(spec.submodule_search_locations[0], "axe.min.js").read_text(encoding="utf-8")
    for scheme in ("dark", "light"):
        preferred = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", preferred)
        browser.execute_script(script)
        found = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
        assert found["passes"]
        broken = [(v["id"], node["target"]) for v in found["violations"] for node in v["nodes"]]
        assert not broken, f"{scheme}: {broken}"


def test_a_long_text_is_explained_by_its_most_similar_words(teacher, tmp_path, browser):
    export(teacher, tmp_path / "model", precisions=["float32"])
    encoder = Encoder(tmp_path / "model")
    long = " ".join(["the dog runs fast and the fire is hot"] * 3)
    index(encoder, {"long": long}, tmp_path / "store", dtype="float32")
    with served(application(Index(tmp_path / "store", encoder))) as address:
        browser.get(f"{address}?q=the+fire")
        browser.find_element("css selector", ".result").click()
        assert len(browser.find_elements("css selector", "#hits thead th")) == 2 * 20
        # Nothing that is hidden in the maps makes the page wider than the window.
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        accessible(browser)
        browser.find_element("css selector", ".why p button").click()
        tables = browser.find_elements("css selector", "#hits table")
        heads = [[th.text for th in t.find_elements("css selector", "thead th")] for t in tables]
        assert heads == [long.split()] * 2
        # All weight of a word of the text is shared by words of the query, and by its prompt.
        shares = [
            float(cell.get_attribute("textContent"))
            for cell in tables[1].find_elements("css selector", "tbody td")
        ]
        assert 0 < max(shares) <= 1


def test_in_a_browser(app, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def said(text):
        WebDriverWait(browser, 20).until(lambda b: text in b.find_element(By.ID, "status").text)

    with served(app) as address:
        browser.get(address)
        assert [b.text for b in browser.find_elements(By.CSS_SELECTOR, "#examples button")]
        accessible(browser)
        box = browser.find_element(By.ID, "query")
        box.send_keys("the fire\n")
        hits = browser.find_elements(By.CSS_SELECTOR, "#hits > li")
        assert len(hits) == 10
        said("10 results")
        # What documents say is shown, not run.
        evil = next(h for h in hits if "onerror" in h.text)
        assert "<b>evil</b>" in evil.text
        assert browser.title == "Search store – optical_rs"
        assert not browser.find_elements(By.CSS_SELECTOR, "#hits img, #hits b")
        evil.find_element(By.CSS_SELECTOR, ".result").click()
        tables = browser.find_elements(By.CSS_SELECTOR, "#hits table")
        while len(tables) < 2:
            tables = browser.find_elements(By.CSS_SELECTOR, "#hits table")
        assert "MaxSim" in evil.find_element(By.CSS_SELECTOR, ".why").text
        assert tables[0].find_elements(By.CSS_SELECTOR, "td.match")
        assert [cell.text for cell in tables[0].find_elements(By.CSS_SELECTOR, "tbody th")] == ["the", "fire"]
        colour = tables[1].find_element(By.CSS_SELECTOR, "tbody td").value_of_css_property("background-color")
        assert "42, 111, 151" in colour
        # Which words count is up to the model; they are marked where they stand in the text.
        marked = [mark.text for mark in evil.find_elements(By.CSS_SELECTOR, "mark")]
        assert marked
        assert all(word in EVIL for word in marked)
        accessible(browser)
        # An address is a search: opened anew it shows the same.
        assert browser.current_url == f"{address}?q=the+fire"
        browser.get(browser.current_url)
        said("10 results")
        box = browser.find_element(By.ID, "query")
        assert box.get_attribute("value") == "the fire"
        box.send_keys(Keys.ARROW_DOWN)
        assert browser.switch_to.active_element == browser.find_element(By.CSS_SELECTOR, ".result")
        box.clear()
        box.send_keys("☃\n")
        said("results")
        assert not [
            e for e in browser.get_log("browser") if e["level"] == "SEVERE" and "favicon" not in e["message"]
        ]
        # The browser itself reports what the server refuses.
        browser.get(f"{address}?q={'x' * (LONGEST_QUERY + 1)}")
        said("Your query: expected at most 2000 characters")
        accessible(browser)
