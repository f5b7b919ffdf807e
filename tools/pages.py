"""What the documentation site is made of besides its pages: an mkdocs hook.

- ``{{ name }}`` in a page stands for a part that is generated from the code (:data:`PARTS`).
- Each folder of ``docs/results`` with a README.md gets its place in the navigation.
- Notebooks of ``docs/gallery`` are executed and shown with their output.
"""

import argparse
import base64
import hashlib
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CACHE = ROOT / ".cache" / "gallery"
#: Seconds that a notebook may take.
LONGEST = 600

sys.path.insert(0, str(ROOT / "python"))


def commands() -> str:
    """Every command with its arguments, from the parsers."""
    from optical_rs.cli import COMMANDS

    return "\n\n".join(_command(name, what) for name, what in COMMANDS.items())


def _command(name: str, what: str) -> str:
    parser = import_module(f"optical_rs.cli.{name.replace('-', '_')}").build_parser()
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    # The list of all options comes below; the usage shows what must be given.
    usage = re.sub(r" \[-[^\]]*\]", "", usage)
    lines = [f"## {name}", parser.description or what, f"```text\n{usage}\n```"]
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if not isinstance(a, argparse._HelpAction)]
        if not actions:
            continue
        if group.title not in ("options", "positional arguments", "optional arguments"):
            lines.append(f"**{group.title[0].upper()}{group.title[1:]}.** {group.description or ''}")
        rows = ["| argument | default | meaning |", "|---|---|---|", *map(_argument, actions)]
        lines.append("\n".join(rows))
    return "\n\n".join(lines)


def _argument(action: argparse.Action) -> str:
    names = [o.replace("_", "-") if o.startswith("--") else o for o in action.option_strings]
    shown = ", ".join(f"`{name}`" for name in names) or f"`{action.metavar or action.dest}`"
    if action.choices:
        shown += f" {', '.join(f'`{choice}`' for choice in action.choices)}"
    flag = action.nargs == 0
    default = "" if flag or action.default in (None, argparse.SUPPRESS) else f"`{action.default}`"
    if isinstance(action.default, list):
        default = ", ".join(f"`{value}`" for value in action.default)
    if action.required and action.option_strings:
        default = "required"
    meaning = (action.help or "").replace("|", "\\|")
    return f"| {shown} | {default} | {meaning} |"


def recipe_keys() -> str:
    """The keys of a recipe, from its dataclass."""
    from optical_rs.experiment.tables import recipe_table

    return recipe_table()


def system_options() -> str:
    """The options of systems, from the signatures of losses and methods."""
    from optical_rs.experiment.tables import options_table

    return options_table()


def sources() -> str:
    """The published sources, from their declarations."""
    from optical_rs.data.sources import table

    return table()


def studies() -> str:
    """A line for each study: its title, and the first sentence of its page."""
    lines = []
    for page in reports():
        title, text = _title_and_text(page)
        lines.append(f"- **[{title}]({page.parent.name}/README.md)** {text}")
    return "\n".join(lines)


def _title_and_text(page: Path) -> tuple[str, str]:
    title, _, rest = page.read_text(encoding="utf-8").removeprefix("# ").partition("\n")
    paragraph = " ".join(rest.strip().partition("\n\n")[0].split())
    sentence = re.match(r".*?[.!?](?=\s|$)", paragraph)
    return title, sentence[0] if sentence else paragraph


def reports() -> list[Path]:
    """The page of each study."""
    return sorted((DOCS / "results").glob("*/README.md"))


def notebooks() -> list[Path]:
    """The notebooks of the gallery, in their order."""
    return sorted((DOCS / "gallery").glob("*.ipynb"))


#: What ``{{ name }}`` in a page stands for.
PARTS: dict[str, Callable[[], str]] = {
    function.__name__: function for function in (commands, recipe_keys, system_options, sources, studies)
}


def filled(markdown: str) -> str:
    """A page with its generated parts."""
    return re.sub(r"^\{\{ (\w+) \}\}$", lambda part: PARTS[part[1]](), markdown, flags=re.M)


def executed(notebook: Path) -> Any:
    """A notebook with its output; it is run again only if its text has changed."""
    import nbformat
    from nbclient import NotebookClient

    text = notebook.read_text(encoding="utf-8")
    kept = CACHE / f"{hashlib.sha256(text.encode()).hexdigest()}.ipynb"
    if kept.exists():
        return nbformat.read(kept, as_version=4)
    made = nbformat.reads(text, as_version=4)
    print(f"executing {notebook.relative_to(ROOT)}", file=sys.stderr)
    NotebookClient(made, timeout=LONGEST, resources={"metadata": {"path": str(ROOT)}}).execute()
    CACHE.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, kept)
    return made


def page_of(notebook: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and the pictures in it by name."""
    parts, pictures = [], {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                picture = f"{name}-{len(pictures)}.png"
                pictures[picture] = base64.b64decode(data["image/png"])
                parts.append(f"![{_caption(notebook, cell)}]({picture})")
            elif "text/markdown" in data:
                parts.append(data["text/markdown"])
            elif "text/plain" in data:
                parts.append(f"```text\n{data['text/plain']}\n```")
            elif output.get("name") == "stdout":
                parts.append(f"```text\n{output.text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def _caption(notebook: Any, cell: Any) -> str:
    """What a picture shows: the heading above it."""
    above = notebook.cells[: notebook.cells.index(cell)]
    titles = [re.findall(r"^#+ (.*)$", c.source, re.M) for c in above if c.cell_type == "markdown"]
    return next((found[-1] for found in reversed(titles) if found), "the picture of this cell")


def on_config(config: Any) -> None:
    """Give studies and notebooks their places in the navigation."""
    places = {title: entries for section in config.nav for title, entries in section.items()}
    results = places["Results"]
    for page in reports():
        folder = f"results/{page.parent.name}"
        title = page.parent.name.replace("_", " ").capitalize()
        pages: list[Any] = [f"{folder}/README.md"]
        if (page.parent / "report.md").exists():
            pages.append({"All tables": f"{folder}/report.md"})
        results.append({title: pages})
    places["Gallery"] += ["gallery/index.md", *(f"gallery/{path.stem}.md" for path in notebooks())]


def on_files(files: Any, config: Any) -> None:
    """Add the pages of notebooks and their pictures."""
    from mkdocs.structure.files import File

    for path in notebooks():
        files.remove(files.get_file_from_path(f"gallery/{path.name}"))
        text, pictures = page_of(executed(path), path.stem)
        files.append(File.generated(config, f"gallery/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"gallery/{name}", content=content))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill a page's generated parts in."""
    return filled(markdown)
