"""Executes a page of documentation: writes its files and runs its commands.

A fenced block below a line that consists of a bold file name is that file. A `console` block contains
commands after `$` and their output; a line `...` in the output matches any lines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen

from ..forked import WARM

REPOSITORY = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"```(\w*)\n")
_NAME = re.compile(r"\*\*`([^`]+)`\*\*\n+\Z")


@frozen
class Block:
    """A fenced block: its language, its file (if any), its text and its line in the page."""

    language: str
    file: str | None
    text: str
    line: int


@frozen
class Command:
    """A command of a console block, with the output that the page shows."""

    line: int
    text: str
    output: str


@frozen
class Played:
    """A command that was run, with its exit code and its output."""

    command: Command
    code: int
    output: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page, in order."""
    text = page.read_text()
    at = 0
    while (fence := _FENCE.search(text, at)) is not None:
        end = text.index("\n```", fence.end() - 1) + 1
        name = _NAME.search(text[at : fence.start()])
        yield Block(
            fence[1], name[1] if name else None, text[fence.end() : end], text.count("\n", 0, fence.start()) + 1
        )
        at = end + 3


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a console block with their output; a backslash continues a command on the next line."""
    lines = block.text.splitlines()
    starts = [index for index, line in enumerate(lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        first = start + 1
        while lines[first - 1].endswith("\\"):
            first += 1
        text = "\n".join(lines[start:first])[2:]
        yield Command(block.line + 1 + start, text, "\n".join(lines[first:end]).strip("\n"))


def play(page: Path, folder: Path, environment: Mapping[str, str]) -> list[Played]:
    """Write the files of a page and run its commands in `folder`, in the order of the page."""
    played = []
    for block in blocks(page):
        if block.file is not None:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text)
        elif block.language == "console":
            for command in commands(block):
                done = shell(command.text, folder, environment)
                played.append(Played(command, done.returncode, done.stdout))
    return played


def shell(command: str, folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader would, with stdout and stderr combined, as on a terminal."""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**environment, "PWD": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def reader(home: Path) -> dict[str, str]:
    """Return the environment of a reader: `pip install` installs to `home/target`, which is on the import path.

    Nothing is downloaded, and nothing is added to the environment in which the tests run.
    """
    binaries = home / "bin"
    binaries.mkdir(parents=True, exist_ok=True)
    for name in ("fluxflow-run", "fluxflow-train", "fluxflow-generate", "fluxflow-graphs"):
        WARM.program(binaries / name, str(Path(sys.executable).with_name(name)))
    WARM.program(binaries / "pytest", "-m", "pytest")
    pip = binaries / "pip"
    options = f"--no-deps --no-build-isolation --no-index --disable-pip-version-check --target {home / 'target'}"
    pip.write_text(f'#!/bin/sh\ncommand=$1; shift\nexec {WARM.executable} -m pip "$command" {options} "$@"\n')
    pip.chmod(0o755)
    kept = {key: os.environ[key] for key in ("LANG", "TMPDIR") if key in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "PATH": os.pathsep.join([str(binaries), str(Path(sys.executable).parent), os.defpath]),
        "PYTHONPATH": str(home / "target"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
    }


def agrees(shown: str, printed: str) -> bool:
    """Return whether a page shows what was printed, apart from `...` and from what differs in every run."""
    lines = _settled(shown).splitlines()
    pattern = "".join(r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line) + r"\n" for line in lines)
    return re.fullmatch(pattern, _settled(printed)) is not None


def _settled(text: str) -> str:
    """Return the text without versions, paths, dates, times and numbers of a run, and line numbers of our files."""
    text = text.replace(str(REPOSITORY), "REPOSITORY")
    text = re.sub(r"(fluxflow-registry) \d+(\.\d+)+\S*", r"\1 VERSION", text)
    text = re.sub(r"\S*\b(fluxflow_(?:registry|vae|shapes)/\w+\.py):\d+", r"\1:LINE", text)
    text = re.sub(r"\b\d{8}-\d{6}\b", "DATE", text)
    text = re.sub(r"\b\d+:\d\d:\d\d\b", "TIME", text)
    text = re.sub(
        r"^(\[TIME|│|Step |vae).*", lambda line: re.sub(r"-?\d+\.\d+", "NUMBER", line[0]), text, flags=re.MULTILINE
    )
    text = re.sub(r"\b(\d+ passed in) [\d.]+s", r"\1 TIME", text)
    return "".join(line.rstrip() + "\n" for line in text.strip("\n").splitlines())


def refresh(page: Path, home: Path) -> str:
    """Return the page with the new output of every command that no longer prints what the page shows."""
    lines = page.read_text().splitlines()
    for one in reversed(play(page, folder_of(home), reader(home))):
        if not agrees(one.command.output, one.output):
            start = one.command.line + one.command.text.count("\n")
            end = lines.index("```", start)
            following = [index for index in range(start, end) if lines[index].startswith("$ ")]
            lines[start : min(following, default=end)] = one.output.strip("\n").splitlines()
    return "\n".join(lines) + "\n"


def folder_of(home: Path) -> Path:
    """Create an empty folder beside a clone of the repository, in which a page is executed."""
    folder = home / "work"
    folder.mkdir(parents=True)
    (home / "fluxflow-registry").symlink_to(REPOSITORY)
    return folder


if __name__ == "__main__":
    import tempfile

    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as temporary:
            Path(name).write_text(refresh(Path(name), Path(temporary)))
