"""The search page: its calls, its limits, and in a real browser."""

import contextlib
import shutil
import threading
import time

import numpy as np
import pytest
from optical_rs.edge import Encoder
from optical_rs.edge.export import export
from optical_rs.edge.index import index
from optical_rs.edge.serve import LONGEST_QUERY, application

pytest.importorskip("onnxscript")
pytest.importorskip("httpx")
testclient = pytest.importorskip("starlette.testclient")

EVIL = '<img src=x onerror="document.title=1"><script>document.title=2</script> the fire'


@pytest.fixture(scope="module")
def app(teacher, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    export(teacher, folder / "model", precisions=["float32"])
    encoder = Encoder(folder / "model")
    documents = {f"d{i}": english for i, (_, english) in enumerate(pairs)} | {"<b>evil</b>": EVIL}
    return application(encoder, index(encoder, documents, folder / "store", dtype="float32"))


@pytest.fixture
def client(app):
    return testclient.TestClient(app)


def test_search_and_explain(client):
    found = client.get("/search", params={"q": "the dog runs fast", "k": 3}).json()["hits"]
    assert [h["rank"] for h in found] == [1, 2, 3]
    assert [h["score"] for h in found] == sorted((h["score"] for h in found), reverse=True)
    why = client.get("/explain", params={"q": "the dog runs fast", "number": found[0]["number"]}).json()
    similarity = np.array(why["similarity"])
    assert similarity.shape == (len(why["query"]), len(why["document"])) == np.array(why["plan"]).shape
    assert (similarity.argmax(axis=1) == why["matches"]).all()
    assert similarity.max(axis=1).sum() == pytest.approx(found[0]["score"], abs=1e-2)


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


@contextlib.contextmanager
def served(app):
    uvicorn = pytest.importorskip("uvicorn")
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
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


def test_in_a_browser(app, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def said(text):
        WebDriverWait(browser, 20).until(lambda b: text in b.find_element(By.ID, "status").text)

    with served(app) as address:
        browser.get(address)
        box = browser.find_element(By.ID, "query")
        box.send_keys("the fire\n")
        hits = browser.find_elements(By.CSS_SELECTOR, "#hits > li")
        assert len(hits) == 10
        said("10 results")
        # What documents say is shown, not run.
        evil = next(h for h in hits if "onerror" in h.text)
        assert "<b>evil</b>" in evil.text
        assert browser.title == "optical_rs search"
        assert not browser.find_elements(By.CSS_SELECTOR, "#hits img, #hits b")
        evil.find_element(By.CSS_SELECTOR, ".result").click()
        tables = browser.find_elements(By.CSS_SELECTOR, "#hits table")
        while len(tables) < 2:
            tables = browser.find_elements(By.CSS_SELECTOR, "#hits table")
        assert "MaxSim" in tables[0].text
        assert tables[0].find_elements(By.CSS_SELECTOR, "td.match")
        colour = tables[1].find_element(By.CSS_SELECTOR, "td").value_of_css_property("background-color")
        assert colour.startswith("rgba(42, 111, 151")
        box.clear()
        box.send_keys("☃\n")
        said("results")
        assert not [
            e for e in browser.get_log("browser") if e["level"] == "SEVERE" and "favicon" not in e["message"]
        ]
