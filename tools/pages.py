"""What the documentation is made of besides what people write: generated parts of pages, and an mkdocs hook.

``python tools/pages.py`` writes the parts that are generated from the code (:data:`PARTS`) into their pages, between two
comments that a reader does not see. They are committed, so that pages are whole in the repository, too; a test says when
they are out of date, and ``make docs`` writes them first. The hook adds what a site has besides pages:

- Each folder of ``docs/results`` with a README.md gets its place in the navigation.
- Notebooks of ``docs/gallery`` are executed and shown with their output.
"""

import argparse
import ast
import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

sys.path.insert(0, str(ROOT / "python"))


def commands() -> str:
    """Every command with its arguments, from the parsers."""
    from optical_rs.cli import COMMANDS

    return _linked("\n\n".join(_command(name, what) for name, what in COMMANDS.items()))


def _linked(text: str) -> str:
    """Pages that help texts name, as links of a page in docs/reference."""
    return re.sub(r"docs/([\w/-]+)\.md", r"[\1](../\1.md)", text)


def _command(name: str, what: str) -> str:
    parser = import_module(f"optical_rs.cli.{name.replace('-', '_')}").build_parser()
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    # The list of all options comes below; the usage shows what must be given.
    usage = re.sub(r" \[-(?:[^\[\]]|\[[^\]]*\])*\]", "", usage)
    lines = [f"## {name}", parser.description or what, f"```text\n{usage}\n```"]
    if name == "experiment":
        return "\n\n".join(
            [*lines, "Its arguments are those of [train](#train); `--keep` is `none` by default."]
        )
    plain = [g for g in parser._action_groups if g.title in ("options", "positional arguments")]
    lines.append(_arguments([action for group in plain for action in group._group_actions]))
    for group in parser._action_groups:
        if group not in plain:
            lines.append(f"**{group.title[0].upper()}{group.title[1:]}.** {group.description or ''}")
            lines.append(_arguments(group._group_actions))
    return "\n\n".join(line for line in lines if line)


def _arguments(actions: Sequence[argparse.Action]) -> str:
    shown = [_argument(a) for a in actions if not isinstance(a, argparse._HelpAction)]
    return "\n".join(["| argument | default | meaning |", "|---|---|---|", *shown]) if shown else ""


def _argument(action: argparse.Action) -> str:
    names = [o.replace("_", "-") if o.startswith("--") else o for o in action.option_strings]
    shown = ", ".join(f"`{name}`" for name in names) or f"`{action.metavar or action.dest}`"
    if action.choices:
        shown += ": " + ", ".join(map(str, action.choices))
    default = action.default
    if action.required and action.option_strings:
        said = "required"
    elif action.nargs == 0 or default in (None, argparse.SUPPRESS) or isinstance(default, tuple):
        said = ""
    else:
        said = f"`{' '.join(map(str, default)) if isinstance(default, list) else default}`"
    meaning = re.sub(r" \(default: [^)]*\)$", "", action.help or "") if said else action.help or ""
    return f"| {shown} | {said} | {meaning} |".replace("\n", " ")


def recipe_keys() -> str:
    """The keys of a recipe, from its dataclass."""
    from optical_rs.experiment.tables import recipe_table

    return _linked(recipe_table())


def system_options() -> str:
    """The options of systems, from the signatures of losses and methods."""
    from optical_rs.experiment.tables import options_table

    return options_table()


def sources() -> str:
    """The published sources, from their declarations."""
    from optical_rs.data.sources import SOURCES

    return "\n\n".join(_source(source) for source in SOURCES.values())


def _source(source: Any) -> str:
    # Splits and sides are those of the spelling that is shown.
    rest = source.spelling.partition(":")[2]
    kinds = {"bitext": source.bitext, "collection": source.collection, "pairs": source.pairs}
    loads = [f"{kind} ({', '.join(part.have(rest))})" for kind, part in kinds.items() if part]
    loads += ["documents, streamed"] if source.documents else []
    places = [
        f"[{place.path}]({place.address})"
        + (f" at {place.revision[:7]}" if len(place.revision) == 40 else "")
        + f", in `{place.folder}/`"
        for place in source.repositories
    ]
    rows = {
        "loads": "; ".join(loads),
        "foreign side": " or ".join(source.collection.foreign(rest)) or "any" if source.collection else "",
        "size": source.size,
        "licence": source.licence,
        "from": "; ".join([*places, source.getting]).strip("; "),
    }
    title = f"### `{source.spelling}`"
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value]
    return "\n".join(
        [title, "", f"{source.title[0].upper()}{source.title[1:]}.", "", "| | |", "|---|---|", *lines]
    )


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
    paragraph = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
    sentence = re.match(r".*?[.!?](?=\s|$)", paragraph)
    return title, sentence[0] if sentence else paragraph


def reports() -> list[Path]:
    """The page of each study."""
    return sorted((DOCS / "results").glob("*/README.md"))


def notebooks() -> list[Path]:
    """The notebooks of the gallery, in their order."""
    return sorted((DOCS / "gallery").glob("*.ipynb"))


#: What is generated, by the name in the comment before it.
PARTS: dict[str, Callable[[], str]] = {
    function.__name__: function for function in (commands, recipe_keys, system_options, sources, studies)
}
_PART = re.compile(r"^<!-- generated: (\w+) -->$.*?^<!-- end of \1 -->$", re.M | re.S)


def filled(markdown: str) -> str:
    """A page with its generated parts as the code has them now."""
    return _PART.sub(
        lambda part: f"<!-- generated: {part[1]} -->\n\n{PARTS[part[1]]()}\n\n<!-- end of {part[1]} -->",
        markdown,
    )


def pages() -> list[Path]:
    """The pages of the documentation."""
    return sorted(DOCS.rglob("*.md"))


def main() -> None:
    """Write the generated parts that are out of date."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8", newline="\n")
            print(f"written: {page.relative_to(ROOT)}")


def executed(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown with its output, and its pictures by name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    names: dict[str, Any] = {}
    heading = ""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = next(iter(re.findall(r"^#+ (.*)$", source, re.M)), heading)
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        value, printed = run_cell(source, names)
        if printed:
            parts.append(f"```text\n{printed.rstrip()}\n```")
        if hasattr(value, "savefig"):
            name = f"{notebook.stem}-{len(pictures)}.png"
            pictures[name] = as_png(value)
            parts.append(f"![{heading}]({name})")
        elif value is not None:
            parts.append(f"```text\n{value!r}\n```")
    return "\n\n".join(parts) + "\n", pictures


def run_cell(source: str, names: dict[str, Any]) -> tuple[Any, str]:
    """Run a cell as a notebook does: the value of its last line, and what it printed."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None
    return value, printed.getvalue()


def as_png(figure: Any) -> bytes:
    """A figure of matplotlib as a picture."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=150, bbox_inches="tight")
    return written.getvalue()


def on_config(config: Any) -> None:
    """Give studies and notebooks their places in the navigation."""
    places = {title: entries for section in config.nav for title, entries in section.items()}
    results = places["Results"]
    for page in reports():
        folder = f"results/{page.parent.name}"
        title, _ = _title_and_text(page)
        pages: list[Any] = [f"{folder}/README.md"]
        for report in sorted(page.parent.glob("report*.md")):
            of = report.stem.removeprefix("report").strip("_")
            pages.append({f"All tables, {of}" if of else "All tables": f"{folder}/{report.name}"})
        results.append({title: pages})
    places["Gallery"] += ["gallery/index.md", *(f"gallery/{path.stem}.md" for path in notebooks())]


def on_files(files: Any, config: Any) -> None:
    """Add the pages of notebooks and their pictures."""
    from mkdocs.structure.files import File

    for path in notebooks():
        files.remove(files.get_file_from_path(f"gallery/{path.name}"))
        print(f"executing {path.relative_to(ROOT)}", file=sys.stderr)
        text, pictures = executed(path)
        files.append(File.generated(config, f"gallery/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"gallery/{name}", content=content))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to notebooks lead to their pages."""
    return markdown.replace(".ipynb)", ".md)")


if __name__ == "__main__":
    main()
