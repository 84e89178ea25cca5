"""What the documentation says can be done: its commands parse, its options exist, its links lead somewhere."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from docs.make_cli import PAGE, page
from docs.make_cli import commands as known_commands

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
KNOWN = dict(known_commands())
#: Options of programs that are not the command line.
FOREIGN = {"--check", "--detach", "--enable-lora", "--force", "--generate", "--lora-target-modules", "--max-lora-rank"}
FOREIGN |= {"--generation-config", "--hypothesis-profile", "--no-deps", "--profile", "--scale", "--wheel-dir"}
FOREIGN |= {"--max-model-len"}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
each_page = pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))


def in_order(file: Path) -> list[tuple[str, str]]:
    """(language, content) of the page's code blocks."""
    return _FENCE.findall(file.read_text(encoding="utf-8"))


def blocks(file: Path, language: str) -> list[str]:
    return [body for name, body in in_order(file) if name == language]


def spans(file: Path) -> list[str]:
    return [" ".join(span.split()) for span in _SPAN.findall(_FENCE.sub("", file.read_text(encoding="utf-8")))]


def commands(file: Path, module: str) -> list[list[str]]:
    """Arguments of every ``python -m module`` in code blocks and code spans."""
    found = []
    for text in [*blocks(file, "sh"), *spans(file)]:
        for line in text.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
            lexer.commenters = "#"
            lexer.whitespace_split = True
            words = list(lexer)
            for start in range(len(words) - 2):
                if words[start : start + 2] == ["python", "-m"] and re.fullmatch(module, words[start + 2]):
                    end = next((i for i in range(start, len(words)) if set(words[i]) <= set("&|;<>")), len(words))
                    found.append(words[start + 2 : end])
    return found


def complaint(arguments: list[str]) -> str | None:
    """What ``python -m search`` has against the arguments; runs nothing."""
    if arguments in ([], ["--help"], ["COMMAND", "--help"]):
        return None
    name, *rest = arguments
    if rest and f"{name} {rest[0]}" in KNOWN:
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name not in KNOWN:
        return f"no command {name}"
    # A page may name a command without all that it requires, as in "python -m search export".
    in_short = not rest or rest[-1] == "[OPTIONS]"
    try:
        KNOWN[name].make_context(name, [word for word in rest if word != "[OPTIONS]"])
    except click.MissingParameter as error:
        return None if in_short else error.format_message()
    except click.ClickException as error:
        return error.format_message()
    return None


@each_page
def test_every_command_of_the_program_parses(file: Path) -> None:
    for _, *arguments in commands(file, "search"):
        assert complaint(arguments) is None, shlex.join(arguments)


def test_the_readme_names_commands() -> None:
    named = {arguments[1] for arguments in commands(ROOT / "README.md", "search")}
    assert {
        "run",
        "modules",
        "latency",
        "resume",
        "list",
        "report",
        "ui",
        "export",
        "verify",
        "ablate",
        "compare",
    } <= named


@each_page
def test_every_option_named_alone_exists(file: Path) -> None:
    known = {opt for command in KNOWN.values() for param in command.params for opt in param.opts} | FOREIGN
    named = {match for span in spans(file) for match in re.findall(r"(?:^|\s)(--[a-z][a-z-]*)", span)}
    if file.name == "CONTRIBUTING.md" or file == PAGE:
        named -= {"--help"}
    assert named <= known


@each_page
def test_every_other_program_exists(file: Path) -> None:
    for module, *_ in commands(file, r"(benchmarks|docs|objectives)\..*"):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


@each_page
def test_shell_blocks_are_shell_and_python_blocks_are_python(file: Path) -> None:
    for block in blocks(file, "sh"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    for block in blocks(file, "python"):
        compile(block, str(file), "exec")


@each_page
def test_every_link_leads_somewhere(file: Path) -> None:
    text = _FENCE.sub("", file.read_text(encoding="utf-8"))
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://", target):
            path, _, anchor = target.partition("#")
            page_at = file.parent / path if path else file
            assert page_at.exists(), target
            assert not anchor or anchor in anchors(page_at), target


def anchors(file: Path) -> set[str]:
    """What GitHub calls the page's headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", file.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", KNOWN)
def test_every_command_has_an_example_that_parses(name: str) -> None:
    _, _, example = inspect.cleandoc(KNOWN[name].help or "").partition("\n\b\nExample:\n")
    commands = [shlex.split(line.partition(" >")[0]) for line in example.splitlines() if "python -m search" in line]
    assert commands
    assert [complaint(words[words.index("search") + 1 :]) for words in commands] == [None] * len(commands)


def test_the_page_of_options_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m docs.make_cli"


def test_ci_finds_its_commands() -> None:
    """.ci/run takes them from these lines, so that documentation and CI cannot drift apart."""
    setup = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "-m pytest" in line]
    assert [line.split(" && ") for line in setup] == [
        [
            "python3 -m venv .venv",
            ". .venv/bin/activate",
            "pip install -e '.[test,dev,postgres]'",
            "python -m pytest -n 2 --dist loadfile",
        ]
    ]
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    checks = [line for line in lines if line.startswith("ruff check ")]
    assert checks == ["ruff check . && ruff format --check . && mypy && python -m pytest -n 2 --dist loadfile"]
