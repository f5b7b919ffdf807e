"""The pages: tables that are generated, links, recipes and commands. Their Python examples are doctests."""

import re
import shlex
from pathlib import Path

import pytest
from optical_rs.cli import COMMANDS, _dispatch, respell

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXPERIMENTS = ROOT / "docs" / "experiments.md"


def blocks(page, language):
    """The code blocks of a page."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(text):
    """The arguments of each ``optical-rs`` call in a console block."""
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    calls = [re.match(r"\$ (?:\w+=\S+ )*optical-rs (.*)", line) for line in lines]
    return [shlex.split(call[1], comments=True) for call in calls if call]


CALLS = [
    (page.relative_to(ROOT), arguments)
    for page in PAGES
    for block in blocks(page, "console")
    for arguments in commands(block)
]


def test_the_page_on_experiments_has_the_tables_of_the_declarations():
    pytest.importorskip("sentence_transformers")
    from optical_rs.experiment import tables

    page = EXPERIMENTS.read_text(encoding="utf-8")
    assert tables.recipe_table() in page
    assert tables.options_table() in page
    assert set(tables.OPTIONS) == set(tables.options()), "each option has a line, and each line an option"


def test_recipes_of_the_page_are_recipes():
    pytest.importorskip("sentence_transformers")
    from optical_rs.experiment.reading import make_recipe
    from optical_rs.experiment.recipe import read_yaml

    whole, part = map(read_yaml, blocks(EXPERIMENTS, "yaml"))
    recipe = make_recipe(whole, "the page")
    assert (recipe.baseline, recipe.every_language) == ("zero-shot", ["xx"])
    recipe = make_recipe({**whole, "languages": ["ny", "sw"], **part}, "the page")
    assert {name: list(recipe.places(name)) for name in recipe.every_language} == {
        "ny": ["in-domain", "out-of-domain", "news"],
        "sw": ["in-domain", "news", "health"],
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in [re.sub(r"[^\w\- ]", "", t).lower().replace(" ", "-") for t in titles], target


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
        if option.startswith("-") and not re.match(r"-[\d.]", option):
            assert option.partition("=")[0] in known, option


def test_the_readme_runs(tmp_path, monkeypatch, pairs, tiny_encoder, capsys):
    """From a file of sentence pairs to a student's MAP, by the commands as they are printed, with a tiny encoder."""
    monkeypatch.chdir(tmp_path)
    rows = [(f"{a} {b} {c}", f"{x} {y} {z}") for a, x in pairs for b, y in pairs for c, z in pairs[:7]]
    Path("pairs.tsv").write_text("".join(f"{f}\t{e}\n" for f, e in rows), encoding="utf-8")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## On the command line") :]
    calls = commands(section[: section.index("## ", 3)])
    assert [call[0] for call in calls[:3]] == ["split", "train", "evaluate"]
    small = ["--teacher", tiny_encoder, "--dim", "8", "--max-steps", "2"]
    printed = []
    for call in calls[:3]:
        _dispatch(respell([*call, *(small if call[0] == "train" else [])]))
        printed.append(capsys.readouterr().out)
    assert "held/train.tsv" in printed[0]
    assert "zero-shot" in printed[1]
    assert "held, test: 500 queries" in printed[2]
    assert Path("runs/mine/student/modules.json").exists()
