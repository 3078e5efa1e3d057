"""Arguments and options that several commands have, and what they all do with them."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

Config = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG... [key=value...]",
        help="Configuration files, merged left to right, then overrides such as grid.seeds=[0,1].",
    ),
]
OptionalConfig = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG... [key=value...]]",
        help="The sweep whose folders are checked; without it the current folder.",
        show_default=False,
    ),
]
Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/quickstart.")
]
Plugin = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="A .py file or module that registers strategies or readers."),
]
Cpus = Annotated[
    int | None, typer.Option(min=1, help="Processors for a Ray started here. [default: all]")
]
Gpus = Annotated[
    int | None, typer.Option(min=0, help="GPUs for a Ray started here. [default: all]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="An existing Ray cluster, HOST:PORT or auto.",
        envvar="RAY_ADDRESS",
        show_envvar=True,
    ),
]


def console(stderr: bool = False) -> Console:
    """Where the commands print; without escape codes unless it is a terminal that takes them."""
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    # Rich itself leaves bold and the cursor's movements to NO_COLOR.
    is_plain = wants_plain_text()
    return Console(
        stderr=stderr,
        highlight=False,
        markup=False,  # since names and causes may hold brackets
        soft_wrap=not is_terminal,
        force_terminal=False if is_plain else None,
        force_interactive=is_terminal and not is_plain,  # FORCE_COLOR is no reason to draw over
    )


def wants_plain_text() -> bool:
    """Whether the environment asks for text without escape codes, whatever prints it."""
    is_dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return is_dumb or bool(os.environ.get("NO_COLOR"))


def use_plugins(plugins: list[str] | None) -> None:
    """Hand plug-ins on by environment, which also reaches the worker processes."""
    from unlearning.plugins import VARIABLE, load_plugins

    named = [str(Path(p).resolve()) if p.endswith(".py") else p for p in plugins or []]
    if named:
        before = filter(None, [os.environ.get(VARIABLE)])
        os.environ[VARIABLE] = os.pathsep.join([*before, *named])
    load_plugins()


def load(arguments: list[str], plugins: list[str] | None) -> Any:
    from sweep.config import load_config

    use_plugins(plugins)
    files = [Path(argument) for argument in arguments if "=" not in argument]
    return load_config(files, [argument for argument in arguments if "=" in argument])


def show(data: Any, as_json: bool, render: Callable[[], Any]) -> None:
    """Print JSON for programs, or what `render` makes of it for people."""
    if as_json:
        import json

        print(json.dumps(data, indent=1))
    else:
        console().print(render())
