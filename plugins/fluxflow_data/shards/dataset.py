"""Dataset `webdataset`: images with captions in tar files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

from fluxflow_registry import DataError, Place, Problem, printable

from ..cache import cache_folder
from ..captions import CaptionError, CaptionMember, class_name, read_class_names
from ..files import CAPTION_BYTES, IMAGE_BYTES, check_size
from ..holdout import HoldoutOptions, overlap
from ..image_dataset import ImageSource
from .paths import check_entry, find_shards, identities
from .reader import Reader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from .sample_table import SampleTable


def _entries(shards: str | list[str]) -> list[str]:
    return [shards] if isinstance(shards, str) else shards


def _names_shards(_: Any, __: Any, shards: str | list[str]) -> None:
    if not shards and isinstance(shards, list):
        raise ValueError("`shards` is empty")
    for entry in _entries(shards):
        check_entry(entry)


def _is_extensions(_: Any, attribute: Any, value: str) -> None:
    if not all(part.strip(" .") for part in value.split(";")):
        raise ValueError(f"`{attribute.name}` is `{value}`: write extensions, such as `jpg;png`")


def _is_json_extension(_: Any, __: Any, value: str | None) -> None:
    if value is not None and not CaptionMember.parse(value).is_json:
        raise ValueError(f"`label_key` is `{value}`: write the extension of a JSON member, such as `json`")


def _is_a_name(_: Any, __: Any, value: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):  # it is not repeated: it may be a token
        raise ValueError("`token_env` must be the name of an environment variable, such as `MY_TOKEN`")


def _names_a_caption(options: WebDataset, _: Any, value: str) -> None:
    if options.label_key is not None:
        if not all(part.strip() for part in value.split(".")):
            raise ValueError(f"`caption_key` is `{value}`: with `label_key`, write a key, such as `caption`")
        return
    member = CaptionMember.parse(value)
    if not member.extension or ";" in value:
        raise ValueError(f"`caption_key` is `{value}`: write one extension, such as `txt` or `json.caption`")
    if not member.keys and member.is_json:
        raise ValueError(f"`caption_key` is `{value}`: add a key of the JSON, such as `{value}.caption`")


# More than a dozen attributes: one for each option of the recipe.
@frozen
class WebDataset(HoldoutOptions):
    """Images with captions in tar files, stored as the package webdataset writes them, as squares or in aspect buckets.

    image: float32 [B, 3, H, W] in [-1, 1]; caption: text; images are cropped as in `folder`. The members `a/007.jpg`
    and `a/007.txt` are one sample with the key `a/007`: the name up to the first dot of its base name. Samples are in
    the order of the shards and of their first members. Opening reads the headers of new shards and rejects shards
    that are truncated or damaged; the index is kept in the cache, so that later runs start faster. Names with dots are
    keys as a whole where nothing else makes a sample: `a/1.5.jpg` and `a/1.5.txt` have the key `a/1.5`.
    Shards must not change while they are read. From a server (http, https) only the parts that are needed are read. A
    sample that cannot be decoded is replaced by another one.
    """

    shards: str | list[str] = field(validator=_names_shards)
    """Tar files: a path or URL with ranges (`data/{000..012}.tar`), a path or `hf://datasets/OWNER/NAME/...` on the
    hub with wildcards too (`data/*.tar`), or a list of these."""
    image_key: str = field(default="jpg;jpeg;png;webp", validator=_is_extensions)
    """Extensions of the images; of several in one sample, the first in this order is read."""
    caption_key: str = field(default="txt", validator=_names_a_caption)
    """Extension of the captions; `json.caption` is `caption` in the member `json`, `json.a.b` is `b` in `a` there."""
    label_key: str | None = field(default=None, validator=validators.optional(_is_json_extension))
    """Extension of a JSON member in which `caption_key` is a key: `json` and `caption` mean `json.caption`."""
    token_env: str | None = field(default=None, kw_only=True, validator=validators.optional(_is_a_name))
    """Variable with the token for the servers, sent only where FLUXFLOW_TOKENS allows it; null: any of those."""
    fetch: bool = field(default=False, kw_only=True)
    """Download whole shards from a server into the cache first; false: read what is needed, where the server can."""
    fetch_limit: float = field(default=64.0, kw_only=True, validator=validators.gt(0.0))
    """GiB of shards that may be downloaded whole, all together."""
    uncaptioned: bool = field(default=False, kw_only=True)
    """Whether a sample without a caption, or with an empty one, has an empty caption: enough for an autoencoder."""
    damaged_at_most: float = field(default=0.01, kw_only=True, validator=[validators.ge(0.0), validators.le(1.0)])
    """Share of samples that may lack image or caption: they are reported and left out; more are an error."""

    class_names: str | None = field(default=None, kw_only=True, validator=validators.optional(validators.min_len(1)))
    """A file with the name of a class on each line: captions are their numbers from 0, as with `caption_key: cls`."""

    def __call__(self) -> ShardSource:
        """Open the shards; raises DataError with everything that is wrong in any of them."""
        from .index import SampleMembers
        from .remote import Downloads
        from .sample_table import open_shards
        from .tokens import require_variable

        require_variable(self.token_env)
        problems: list[Problem] = []
        names: list[str] = []
        try:
            names = read_class_names(Path(os.path.expanduser(self.class_names))) if self.class_names else []
        except DataError as error:
            problems += error.problems
        paths = find_shards(_entries(self.shards), problems, self.token_env)
        images = tuple(part.strip(" .").lower() for part in self.image_key.split(";"))
        wanted = SampleMembers(images, self._caption_member().extension, self.uncaptioned)
        # Sizes are in the headers of all images: a request for each would take longer than a download.
        downloads = Downloads(self.token_env, self.fetch or self.bucket_multiple is not None, self.fetch_limit)
        table = open_shards(paths, wanted, downloads, self.damaged_at_most, problems)
        if table is None:
            raise DataError(problems)
        read = table.select(self.selected(table.keys()))
        if not len(read):
            raise DataError(self.empty_split(len(table), table.shards[0].name))
        sizes = read.sizes() if self.bucket_multiple is not None else None
        flawed = list(table.flawed())
        chosen = self.selected(key for key, _, _ in flawed) if flawed else None
        left_out = [
            flaw.problem(wanted, shard)
            for number, (_, flaw, shard) in enumerate(flawed)
            if chosen is None or chosen[number]
        ]
        return ShardSource(self, read, sizes, left_out, self.describe_split(read, table), names)

    def overlap(self, label: str, other: str, trained: object) -> Problem | None:
        """The problem where this dataset is held out, and another one with some of its shards is trained on."""
        if not isinstance(trained, WebDataset):
            return None
        problem = overlap(self, label, other, trained)
        if problem is None:  # thousands of shards are not looked up for nothing
            return None
        try:
            return problem if identities(self.shards) & identities(trained.shards) else None
        except ValueError:  # not a path, which is reported when it is opened
            return None

    def _caption_member(self) -> CaptionMember:
        label = "" if self.label_key is None else f"{self.label_key.strip(' .')}."
        return CaptionMember.parse(label + self.caption_key)


class ShardSource(ImageSource):
    """The samples of opened shards, each read from its span when a batch needs it."""

    def __init__(
        self,
        options: WebDataset,
        table: SampleTable,
        sizes: NDArray[np.int64] | None,
        left_out: Sequence[Problem] = (),
        about: Sequence[str] = (),
        class_names: Sequence[str] = (),
    ) -> None:
        # Why shards were downloaded whole although the recipe does not require it.
        notes = [] if options.fetch else _downloads(table, options.bucket_multiple is not None)
        super().__init__(options, sizes, left_out, about, notes)
        self._uncaptioned = options.uncaptioned
        self._caption_member = options._caption_member()
        self._table = table
        self._class_names = class_names
        self.digest = table.digest
        if class_names:
            self.digest = blake2b("\0".join([table.digest, *class_names]).encode(), digest_size=16).hexdigest()
        self._reader = Reader(options.token_env)

    def __len__(self) -> int:
        return len(self._table)

    def name(self, index: int) -> str:
        """The shard and the key of sample `index`, as `data/000.tar:key`."""
        return printable(":".join(self._table.shard_and_key(index)))

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Tensor | list[str]]:
        """The samples at `indices`, as in ImageSource; parts of remote shards are requested in parallel."""
        pairs = [(self._table.image(index), self._table.caption(index)) for index in indices]
        rows = [[span for span in pair if span is not None] for pair in pairs]
        with self._reader.ahead(rows):
            return super().batch(indices, seed)

    def _image_name(self, index: int) -> tuple[str, str, Place]:
        shard, key = self._table.shard_and_key(index)
        return f"the image of sample `{key}`", key, Place(shard)

    def _read_image(self, index: int) -> bytes:
        span = self._table.image(index)
        check_size(span.size, IMAGE_BYTES)
        return self._reader.read(span)

    def _has_captions(self) -> bool:
        return self._table.has_captions()

    def _read_caption(self, index: int) -> str | Problem:
        shard, key = self._table.shard_and_key(index)
        span = self._table.caption(index)
        member, code = f"member `{self._caption_member.extension}` of sample `{key}`", "damaged-sample"
        if span is None:
            return ""
        try:
            check_size(span.size, CAPTION_BYTES)
            caption = self._caption_member.caption(self._reader.read(span))
            if caption and self._class_names:
                caption = class_name(caption, self._class_names)
            if caption or self._uncaptioned:
                return caption
            code, message = "missing-caption", f"the caption of sample `{key}` is empty"
        except CaptionError as error:
            message = f"{member} {error}"
        except OSError as error:
            code, message = "unreadable-file", f"cannot read {member}: {error.strerror}"
        return Problem(message, shard, code=code, subject=key)


def _downloads(table: SampleTable, bucketed: bool) -> list[str]:
    count = sum(shard.downloaded for shard in table.shards)
    if not count:
        return []
    server = "their server does not return parts of files, or no ETag or Last-Modified for them"
    why = "`bucket_multiple` needs the size of every image" if bucketed else server
    return [f"{count:,} of {len(table.shards):,} shards were downloaded whole to {cache_folder('shards')}: {why}"]
