"""What `fluxflow-generate` draws: prompts from the command line, from a file, or from a folder of files."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from fluxflow_registry.errors import DataError, Problem, RecipeError


@frozen
class Prompt:
    """A text to draw, and what its pictures' files begin with."""

    text: str
    name: str


def read_prompts(arguments: Namespace) -> list[Prompt]:
    """The prompts of the command line, then those of the file, then those of the folder; raises for none at all."""
    prompts = [Prompt(text, slug(text)) for text in arguments.prompt]
    if arguments.prompts:
        prompts += [Prompt(text, slug(text)) for text in _lines(Path(arguments.prompts))]
    if arguments.text_prompts_path:
        prompts += _found(Path(arguments.text_prompts_path))
    if not prompts:
        raise RecipeError(
            'nothing to draw: give --prompt "a small red circle", --prompts FILE or --text-prompts-path DIR'
        )
    return prompts


def _found(path: Path) -> Iterator[Prompt]:
    """Of a folder each `.txt` file as one prompt, named by the file; of a file each line, named by file and line."""
    if not path.is_dir():
        lines = list(_lines(path))
        for number, text in enumerate(lines, 1):
            yield Prompt(text, f"{path.stem}-{number}" if len(lines) > 1 else path.stem)
        return
    files = sorted(each for each in path.iterdir() if each.suffix == ".txt" and each.is_file())
    if not files:
        raise DataError(Problem("holds no prompts: there is no .txt file in it", str(path)))
    for file in files:
        text = " ".join(_lines(file))
        if not text:
            raise DataError(Problem("holds no prompt: the file is empty", str(file)))
        yield Prompt(text, file.stem)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file that are not blank."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(Problem(f"the prompts cannot be read: {error}", str(path))) from None
    yield from (line.strip() for line in content.splitlines() if line.strip())


def slug(prompt: str) -> str:
    """A prompt as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "empty"
