"""The prompts of `fluxflow-generate`: prompts from the command line, from a file, or from a folder of files."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from fluxflow_registry.errors import DataError, Problem, RecipeError, one_line


@frozen
class Prompt:
    """A prompt, and how the file names of its images begin."""

    text: str
    name: str


def read_prompts(arguments: Namespace) -> list[Prompt]:
    """The prompts of the command line, of the file and of the folder; raises RecipeError if there are none."""
    prompts = [Prompt(text, slug(text)) for text in arguments.prompt]
    if arguments.prompts:
        prompts += [Prompt(text, slug(text)) for text in _lines(Path(arguments.prompts))]
    if arguments.text_prompts_path:
        prompts += _found(Path(arguments.text_prompts_path))
    if not prompts:
        hint = 'set --prompt "a small red circle", --prompts FILE or --text-prompts-path DIR'
        raise RecipeError(Problem("a prompt is required", None, (("hint", hint),), code="missing-argument"))
    return prompts


def _found(path: Path) -> Iterator[Prompt]:
    """In a folder each `.txt` file is a prompt, named by the file; in a file each line, named by file and line."""
    if not path.is_dir():
        lines = list(_lines(path))
        for number, text in enumerate(lines, 1):
            yield Prompt(text, f"{path.stem}-{number}" if len(lines) > 1 else path.stem)
        return
    files = sorted(each for each in path.iterdir() if each.suffix == ".txt" and each.is_file())
    if not files:
        raise DataError(Problem("the folder of prompts contains no .txt file", str(path), code="missing-file"))
    for file in files:
        text = " ".join(_lines(file))
        if not text:
            raise DataError(Problem("the prompt file is empty", str(file), code="missing-caption"))
        yield Prompt(text, file.stem)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file that are not empty."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            Problem(f"cannot read the prompts: {one_line(error)}", str(path), code="unreadable-file")
        ) from None
    yield from (line.strip() for line in content.splitlines() if line.strip())


def slug(prompt: str) -> str:
    """A prompt as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "empty"
