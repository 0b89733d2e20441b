"""docs/cli.md from the help of the commands, docs/configuration.md from the models of the settings.

python -m tools.reference_docs          # write both
python -m tools.reference_docs --check  # say which is stale, and fail
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel

from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.agent.settings import ComputeSection, NotifySection, ServerSection, SettingsFile
from hvsa_cvat.cli import main as program

DOCS = Path(__file__).parents[1] / "docs"

_MADE = "<!-- made by `make docs`; do not edit -->"

_WIDTH = 100

_ENVIRONMENT = {
    "CVAT_HOST": "Address of the server, in place of `server.url`.",
    "CVAT_ACCESS_TOKEN": "Token of the agent's account (CVAT 2.48 and newer).",
    "CVAT_USER, CVAT_PASSWORD": "User and password, for servers without tokens.",
    "CVAT_ACCESS_TOKEN_FILE, CVAT_PASSWORD_FILE": "A file that holds the secret in one line.",
    "HVSA_CONFIG": "The settings file, in place of `hvsa.toml` in the current folder.",
    "HVSA_WORKSPACE": "The workspace, in place of `workspace`.",
    "HVSA_WEBHOOK_SECRET": "Secret that signs webhooks, here and where they are registered.",
    "HVSA_DASHBOARD_TOKEN": "What opens the pages of `dashboard`, where others can reach them.",
    "HVSA_NOTIFY_URLS": "Addresses for messages, as apprise writes them, with blanks between them.",
    "HVSA_CACHE": "On a machine of a Ray cluster: folder for files that are kept in a bucket. "
    "Default: the path of the agent's workspace.",
    "HVSA_HEARTBEAT": "File that `sync --watch` touches while it works or waits.",
    "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY": "The proxy between the agent and the server.",
}


def cli_page() -> str:
    """Markdown: the help of every command."""
    lines = ["# Commands", "", _MADE, ""]
    width: dict[str, Any] = {"terminal_width": _WIDTH, "max_content_width": _WIDTH}
    root = click.Context(program, info_name="hvsa-agent", **program.context_settings, **width)
    for context in _contexts(root):
        lines += [f"## {context.command_path}", "", "```text", context.get_help(), "```", ""]
    return "\n".join(lines)


def _contexts(context: click.Context) -> Iterator[click.Context]:
    """The context of a command, and those of the commands below it."""
    yield context
    if isinstance(context.command, click.Group):
        for name, command in sorted(context.command.commands.items()):
            below = click.Context(command, info_name=name, parent=context)
            yield from _contexts(below)


def configuration_page() -> str:
    """Markdown: `hvsa.toml`, the options of `enroll`, and the environment."""
    lines = [
        "# Configuration",
        "",
        _MADE,
        "",
        "`hvsa.toml` in the current folder, or the file that `--config` or `HVSA_CONFIG` names.",
        "Paths in it are relative to its folder. An option of a command wins over the",
        "environment, the environment over the file. Secrets are refused in the file.",
        "",
        "```toml",
        'workspace = "hvsa-workspace"',
        "",
        "[server]",
        'url = "https://cvat.example.com"',
        "",
        "[defaults]                 # options of `enroll`, for all tasks",
        'budget = "5%"',
        "",
        "[projects.7]               # for the tasks of project 7",
        'annotators = ["ann", "bob"]',
        "```",
        "",
        *_section(
            "At the top",
            SettingsFile,
            leave_out=("compute", "server", "notify", "defaults", "projects"),
        ),
        *_section("[server]", ServerSection),
        *_section("[compute]", ComputeSection),
        *_section("[notify]", NotifySection),
        *_section("[defaults] and [projects.N]", EnrollOptions),
        "## Environment",
        "",
        "| variable | meaning |",
        "| --- | --- |",
        *(f"| {_code(name)} | {meaning} |" for name, meaning in _ENVIRONMENT.items()),
        "",
    ]
    return "\n".join(lines)


def _code(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _section(title: str, model: type[BaseModel], leave_out: tuple[str, ...] = ()) -> Iterator[str]:
    yield from (f"## {title}", "")
    for name, field in model.model_fields.items():
        if name in leave_out:
            continue
        default = "" if field.default in (None, ()) else f", default `{_shown(field.default)}`"
        yield f"- `{name}` ({_kind(field.annotation)}{default}):"
        yield from (f"  {line}" for line in _wrapped(field.description or ""))
    yield ""


def _wrapped(text: str) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) > _WIDTH:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return [*lines, line] if line else lines


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)


def _kind(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return _kind(next(one for one in get_args(annotation) if one is not type(None)))
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "list of texts"
    if hasattr(annotation, "__members__"):
        return "one of " + ", ".join(f"`{one.value}`" for one in annotation)
    names = {"str": "text", "Path": "path", "bool": "true or false", "int": "number"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, "number" if name == "float" else name)


PAGES = {"cli.md": cli_page, "configuration.md": configuration_page}


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail where a page is stale.")
def main(check: bool) -> None:
    """Write docs/cli.md and docs/configuration.md."""
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            raise click.ClickException(f"docs/{name} is stale; run `make docs`")


if __name__ == "__main__":
    main()
