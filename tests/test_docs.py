"""The pages: what is generated, links, recipes and commands. Their Python examples are doctests."""

import importlib.util
import re
import shlex
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from optical_rs.cli import COMMANDS, _dispatch, respell

from conftest import needs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIAL = [ROOT / "docs" / "tutorials" / f"{name}.md" for name in ("your-language", "compare", "serve")]


def blocks(page, language):
    """The code blocks of a page."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.M | re.S)


def shell_lines(text):
    """What a console block has after its prompts, with continued lines joined."""
    return [line[2:].strip() for line in text.replace("\\\n", " ").splitlines() if line.startswith("$ ")]


def commands(text):
    """The arguments of each ``optical-rs`` call in a console block."""
    calls = [re.match(r"(?:\w+=\S+ |\w+ .*\| )*optical-rs (.*)", line) for line in shell_lines(text)]
    return [shlex.split(call[1], comments=True) for call in calls if call]


CALLS = [
    (page.relative_to(ROOT), arguments)
    for page in PAGES
    for block in blocks(page, "console")
    for arguments in commands(block)
]
RECIPES = [
    (page.relative_to(ROOT), block) for page in PAGES for block in blocks(page, "yaml") if "systems:" in block
]


@pytest.fixture(scope="module")
def site():
    """The module that generates parts of the site."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "tools" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_written_and_up_to_date(site):
    needs("sentence_transformers")
    parts = []
    for page in site.pages():
        text = page.read_text(encoding="utf-8")
        parts += re.findall(r"^<!-- generated: (\w+) -->$", text, re.M)
        assert site.filled(text) == text, f"{page} is out of date: python tools/pages.py"
    assert sorted(parts) == sorted(site.PARTS)


def test_the_reference_has_every_command_source_and_key(site):
    from optical_rs.data.sources import SOURCES

    page = site.commands()
    for name in COMMANDS:
        assert f"## {name}\n" in page
    assert "| `--bitext` |" in page
    assert "`--dry-run`" in page
    page = site.sources()
    for source in SOURCES.values():
        assert f"### `{source.spelling}`\n" in page
        assert f"| licence | {source.licence} |" in page
    pytest.importorskip("sentence_transformers")
    from optical_rs.experiment import tables

    assert set(tables.OPTIONS) == set(tables.options()), "each option has a line, and each line an option"


@pytest.mark.parametrize(("page", "block"), RECIPES, ids=[str(page) for page, _ in RECIPES])
def test_recipes_of_the_pages_are_recipes(page, block):
    pytest.importorskip("sentence_transformers")
    from optical_rs.experiment.reading import make_recipe
    from optical_rs.experiment.recipe import read_yaml

    # What a fragment leaves out is as in any recipe.
    recipe = make_recipe({"bitext": "pairs.tsv", "collection": "kolibri:ny", **read_yaml(block)}, str(page))
    assert "zero-shot" in recipe.systems


def test_collections_of_the_page_on_recipes():
    pytest.importorskip("sentence_transformers")
    from optical_rs.experiment.reading import make_recipe
    from optical_rs.experiment.recipe import read_yaml

    whole, part = map(read_yaml, blocks(ROOT / "docs" / "how-to" / "recipes.md", "yaml"))
    recipe = make_recipe({**whole, "languages": ["ny", "sw"], **part}, "the page")
    assert {name: list(recipe.places(name)) for name in recipe.every_language} == {
        "ny": ["in-domain", "out-of-domain", "news"],
        "sw": ["in-domain", "news", "health"],
    }


def anchors(file):
    """The anchors of a page, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
    return [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize(("page", "arguments"), CALLS, ids=[f"{p}: {' '.join(a[:3])}" for p, a in CALLS])
def test_options_of_the_pages_exist(page, arguments):
    from importlib import import_module

    name, *rest = respell(arguments)
    assert name in COMMANDS
    parser = import_module(f"optical_rs.cli.{name.replace('-', '_')}").build_parser()
    # Names of the release before are options, too.
    known = {*parser._option_string_actions, *getattr(parser, "old", ())}
    if name in ("train", "experiment"):
        pytest.importorskip("sentence_transformers")
        from optical_rs.experiment.tables import options
        from optical_rs.training.arguments import NAMES

        known |= {f"--{option}" for option in (*NAMES, *options())}
    for option in rest:
        if re.match(r"--?[a-zA-Z]", option):
            assert option.partition("=")[0] in known, option


def small_pairs(pairs):
    """Some hundred sentence pairs in words of the tiny encoder."""
    rows = [(f"{a} {b} {c}", f"{x} {y} {z}") for a, x in pairs for b, y in pairs for c, z in pairs[:7]]
    return "".join(f"{f}\t{e}\n" for f, e in rows)


def call(arguments, tiny_encoder, capsys):
    """What a command prints; training is two steps of a tiny model."""
    small = ["--teacher", tiny_encoder, "--dim", "8", "--max-steps", "2"]
    _dispatch(respell([*arguments, *(small if arguments[0] == "train" else [])]))
    return capsys.readouterr().out


def test_the_readme_runs(tmp_path, monkeypatch, pairs, tiny_encoder, capsys):
    """From a file of sentence pairs to a student's MAP, by the commands as they are printed."""
    monkeypatch.chdir(tmp_path)
    Path("pairs.tsv").write_text(small_pairs(pairs), encoding="utf-8")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## On the command line") :]
    calls = commands(section[: section.index("## ", 3)])
    assert [arguments[0] for arguments in calls] == ["split", "train", "evaluate"]
    printed = [call(arguments, tiny_encoder, capsys) for arguments in calls]
    assert "held/train.tsv" in printed[0]
    assert "zero-shot" in printed[1]
    assert "held, test: 500 queries" in printed[2]
    assert Path("runs/mine/student/modules.json").exists()


def test_a_language_is_checked_without_training(tmp_path, monkeypatch, pairs, tiny_encoder, capsys):
    """The commands of the page on languages."""
    monkeypatch.chdir(tmp_path)
    Path("pairs.tsv").write_text(small_pairs(pairs), encoding="utf-8")
    page = ROOT / "docs" / "how-to" / "languages.md"
    calls = [arguments for block in blocks(page, "console") for arguments in commands(block)]
    assert [arguments[0] for arguments in calls] == ["split", "train"]
    printed = [call(arguments, tiny_encoder, capsys) for arguments in calls]
    assert re.search(r"^zero-shot +[01]\.\d", printed[1], re.M)
    assert not re.search(r"^student ", printed[1], re.M)


def test_the_tutorial_runs(tmp_path, monkeypatch, pairs, tiny_encoder, capsys):
    """The first three tutorials in one folder, command by command as they are printed."""
    needs("onnxscript", "uvicorn", "scipy", "kolibri")
    monkeypatch.chdir(tmp_path)
    lines = [line for page in TUTORIAL for block in blocks(page, "console") for line in shell_lines(block)]
    ran = []
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        if program == "pip":
            continue
        if program == "python":
            assert arguments[0] == "-c"
            exec(arguments[1], {})
            assert Path("pairs.tsv").read_text(encoding="utf-8").count("\t") == 984
            # From here on in words that the tiny encoder knows.
            Path("pairs.tsv").write_text(small_pairs(pairs), encoding="utf-8")
            continue
        assert program == "optical-rs"
        if arguments[0] == "serve":
            serve(arguments)
        else:
            call(arguments, tiny_encoder, capsys)
        ran.append(arguments[0])
    assert ran == [
        "split", "train", "evaluate", "compare", "evaluate", "export", "export", "index", "search", "trec-eval", "serve",
    ]  # fmt: skip


def serve(arguments):
    """Call ``serve`` until its page answers."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threading.Thread(target=_dispatch, args=([*arguments, "--port", str(port)],), daemon=True).start()
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
                assert page.status == 200
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the page does not answer")
