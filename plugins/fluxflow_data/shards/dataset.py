"""Dataset `webdataset`: pictures with captions in tar files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

from fluxflow_registry import DataError, Field, Problem

from ..batching.source import PictureSource, fields_of, smaller, whole_multiple
from ..folder.captions import text_of
from ..holdout import Split, chosen, nothing_left, overlap, something_held_out, told
from .paths import located, named, refuse
from .reader import Reader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from .sample_table import Corpus


def _files(_: Any, __: Any, value: str | list[str]) -> None:
    entries = [value] if isinstance(value, str) else value
    if not entries:
        raise ValueError("`shards` is empty")
    for entry in entries:
        refuse(entry)


def _extensions(_: Any, attribute: Any, value: str) -> None:
    if not all(part.strip(" .") for part in value.split(";")):
        raise ValueError(f"`{attribute.name}` is `{value}`; extensions are expected, such as `jpg;png`")


def _label(_: Any, __: Any, value: str | None) -> None:
    if value is not None and parsed(value)[0].rpartition(".")[2] != "json":
        raise ValueError(
            f"`label_key` is `{value}`; the extension of a member that holds JSON is expected, such as `json`"
        )


def _caption(options: WebDataset, _: Any, value: str) -> None:
    if options.label_key is not None:
        if not all(part.strip() for part in value.split(".")):
            raise ValueError(f"`caption_key` is `{value}`; with `label_key` a name in the JSON is expected")
        return
    extension, names = parsed(value)
    if not extension or ";" in value:
        raise ValueError(f"`caption_key` is `{value}`; one extension is expected, such as `txt` or `json.caption`")
    if not names and extension.rpartition(".")[2] == "json":
        raise ValueError(f"`caption_key` is `{value}`, and lacks the name in the JSON: `{value}.caption`, for one")


@frozen
class WebDataset:
    """Pictures with captions in tar files, stored as webdataset does, as squares or in aspect buckets.

    image: float32 [B, 3, H, W] in [-1, 1]; caption: text; pictures are cut as in `folder`. The
    members `a/007.jpg` and `a/007.txt` are one sample with the key `a/007`: the name up to the first
    dot. Samples are in the order of the shards and of their first members. Opening hops through
    the headers of new shards and refuses what is cut, damaged or incomplete; what is found is kept in
    the cache, so that any sample of any later run is read at once. Shards must not change while
    they are read from. Of a shard on a server (http, https) only what is needed is read, by
    requests for parts of it. A sample that cannot be decoded gives its place to another.
    """

    shards: str | list[str] = field(validator=_files)
    """Tar files: a path or URL, with ranges (`data/{000..012}.tar`) or wildcards (`data/*.tar`), or a list of these."""
    image_key: str = field(default="jpg;jpeg;png;webp", validator=_extensions)
    """Extensions of the pictures; of several in one sample the first in this order is read."""
    caption_key: str = field(default="txt", validator=_caption)
    """Extension of the captions; `json.caption` is `caption` in the member `json`, `json.a.b` is `b` in `a` there."""
    label_key: str | None = field(default=None, validator=validators.optional(_label))
    """Extension of a JSON in which `caption_key` is a name: `json` and `caption` say what `json.caption` says."""
    image_size: int = field(default=64, validator=validators.ge(1))
    """Side of the square in pixels; its area is the most that any bucket has."""
    bucket_multiple: int | None = field(
        default=None, validator=validators.optional(validators.and_(validators.ge(1), whole_multiple))
    )
    """Each picture goes to the bucket nearest in aspect, whose sides are multiples of this; None: squares."""
    bucket_aspect: float = field(default=2.0, validator=validators.and_(validators.ge(1.0), validators.le(16.0)))
    """How many times as long as wide a bucket is at most."""
    reduced_min_sizes: list[int] | None = field(default=None, validator=smaller)
    """Sides, as `image_size` is one: each batch is first trained on in these smaller copies, the smallest first."""
    caption_prefix: str | None = None
    """Put in front of every caption, as `{prefix}. {caption}`."""
    flip: float = field(default=0.0, validator=validators.and_(validators.ge(0.0), validators.le(1.0)))
    """Probability that a picture is mirrored left to right, drawn anew for each epoch."""
    holdout: float = field(default=0.0, validator=validators.and_(validators.ge(0.0), validators.lt(1.0)))
    """Share of the samples that is held out of training; which ones, a hash of each one's key says."""
    split: Split = field(default="train", validator=something_held_out)
    """What is read: the samples that are not held out, those that are, or all."""

    token_env: str | None = field(default=None, validator=validators.optional(validators.min_len(1)))
    """Variable with the token for the servers of `shards`; None: HF_TOKEN or HUGGINGFACE_HUB_TOKEN, for that hub."""
    fetch: bool = False
    """Fetch whole shards from a server into the cache first; false: read what is needed, where the server can."""
    fetch_limit: float = field(default=64.0, validator=validators.gt(0.0))
    """GiB of shards that may be fetched whole, all together."""

    @property
    def caption_place(self) -> str:
        """Extension of the captions, and behind a JSON's the names that lead to them."""
        return self.caption_key if self.label_key is None else f"{self.label_key.strip(' .')}.{self.caption_key}"

    def fields(self) -> Mapping[str, Field]:
        """Say what a batch holds, per sample."""
        return fields_of(self)

    def overlap(self, label: str, other: str, trained: object) -> Problem | None:
        """What is wrong where this is held out, and another dataset with some of the same shards is trained on."""
        if not isinstance(trained, WebDataset):
            return None
        found = overlap(self, label, other, trained)
        if found is None:  # thousands of shards are not looked up for nothing
            return None
        try:
            return found if named(self.shards) & named(trained.shards) else None
        except ValueError:  # no path at all, which is told when it is opened
            return None

    def __call__(self) -> ShardSource:
        """Open the shards; raises DataError with everything that is wrong in any of them."""
        from .index import Wanted
        from .sample_table import Fetch, opened

        problems: list[Problem] = []
        paths = located([self.shards] if isinstance(self.shards, str) else self.shards, problems)
        images = tuple(part.strip(" .").lower() for part in self.image_key.split(";"))
        # Sizes are in the headers of all pictures: a request for each would take longer than the whole.
        fetch = Fetch(self.token_env, self.fetch or self.bucket_multiple is not None, self.fetch_limit)
        corpus = opened(paths, Wanted(images, parsed(self.caption_place)[0]), problems, fetch)
        if corpus is None:
            raise DataError(problems)
        read = corpus.only(chosen(self, corpus.keys()))
        if not len(read):
            raise DataError(nothing_left(self, len(corpus), corpus.names[0]))
        sizes = read.sizes() if self.bucket_multiple is not None else None
        return ShardSource(self, read, sizes, told(self, read, corpus))


class ShardSource(PictureSource):
    """The samples of opened shards, each read from its place when it is asked for."""

    def __init__(
        self, options: WebDataset, corpus: Corpus, sizes: NDArray[np.int64] | None, about: Sequence[str] = ()
    ) -> None:
        super().__init__(options, sizes, about=about)
        self.caption_key = options.caption_place
        self.corpus = corpus
        #: Why shards were fetched whole where the recipe does not ask for it.
        self.notes = [] if options.fetch else _fetched(corpus, options.bucket_multiple is not None)
        #: Identity of what is read: headers and lengths of all shards in their order, and which members count.
        self.digest = corpus.digest
        self.reader = Reader(options.token_env)

    def __len__(self) -> int:
        return len(self.corpus)

    def name(self, index: int) -> str:
        """Say which one is sample `index`: its shard and its key, as `data/000.tar:key`."""
        return self.corpus.name(index)

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Tensor | list[str]]:
        """The samples at `indices`, as PictureSource has it; parts of remote shards come side by side."""
        places = [(self.corpus.picture(index), self.corpus.caption(index)) for index in indices]
        with self.reader.ahead(places):
            return super().batch(indices, seed)

    def _picture(self, index: int) -> bytes:
        return self.reader.read(*self.corpus.picture(index))

    def _caption(self, index: int, damaged: dict[int, Problem]) -> str:
        """The caption of a sample, or an empty text after telling why there is none."""
        extension, names = parsed(self.caption_key)
        try:
            content = self.reader.read(*self.corpus.caption(index))
            caption = _field(content, names) if names else text_of(content)
        except OSError as error:
            message = f"its `{extension}` cannot be read: {error.strerror}"
        except ValueError as error:
            message = f"its `{extension}` {error}"
        else:
            if caption:
                return caption
            message = f"its caption in `{self.caption_key}` is empty"
        damaged.setdefault(index, Problem(message, self.name(index)))
        return ""


def _fetched(corpus: Corpus, sized: bool) -> list[str]:
    from .index_cache import folder

    count = corpus.fetched
    if not count:
        return []
    why = "as `bucket_multiple` needs the size of every picture" if sized else "as their server gives no parts of files"
    return [f"{count:,} of {len(corpus.paths):,} shards were fetched whole into {folder('shards')}, {why}"]


def parsed(key: str) -> tuple[str, tuple[str, ...]]:
    """An extension, and the names that lead to the caption in it: `json.a.b` is (`json`, (`a`, `b`))."""
    parts = key.strip(" .").split(".")
    lower = [part.lower() for part in parts]
    end = lower.index("json") + 1 if "json" in lower else len(parts)
    return ".".join(lower[:end]), tuple(parts[end:])


def _field(content: bytes, names: Sequence[str]) -> str:
    """The text in a JSON under a chain of names; raises ValueError in a user's words."""
    import json

    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON" if content else "is empty: 0 bytes") from None
    for depth, name in enumerate(names):
        if not isinstance(value, dict) or name not in value:
            there = ", ".join(list(value)[:8]) if isinstance(value, dict) else type(value).__name__
            raise ValueError(f"has no `{'.'.join(names[: depth + 1])}`; it has {there or 'nothing'}")
        value = value[name]
    if not isinstance(value, str):
        raise ValueError(f"holds under `{'.'.join(names)}` no text but {type(value).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"holds under `{'.'.join(names)}` halves of characters")
    return " ".join(value.split())
