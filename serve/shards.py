"""Shards: runs that each measure a part of the same inputs, and the record of such a part."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PositiveInt, ValidationError

from wsseg.imaging.definitions import Frozen
from wsseg.imaging.errors import Failure, WssegError
from wsseg.imaging.files import atomic
from wsseg.imaging.scan import FileRef, ScanRef
from wsseg.serve.journal import file_digest
from wsseg.serve.report import report_paths, translated

ITEM_BYTES = 1 << 16
"""What opening a scan costs, as bytes of pixels: a thousand pictures are not nothing."""
MOST_BYTES = 1 << 32
"""What a scan counts at most; what a header states can be wrong."""

FOLDER_OF = "folder of "
"""How the settings begin that say where outputs lie, which may differ from shard to shard."""

Item = ScanRef | Failure


def _as_pair(value: Any) -> Any:
    """Number and count, from the text I/N of an option."""
    return value.split("/") if isinstance(value, str) else value


def _checked(pair: tuple[int, int]) -> tuple[int, int]:
    index, count = pair
    if index > count:
        raise ValueError(f"{index}/{count} is no shard: write I/N, with I from 1 to N")
    return pair


Shard = Annotated[
    tuple[PositiveInt, PositiveInt], BeforeValidator(_as_pair), AfterValidator(_checked)
]
"""(i, n): part i, from 1, of n."""


class ShardRecord(Frozen):
    """What lies beside the report of a shard, so that all can be joined exactly.

    inputs: digest of all that was found, in its order, of which there are `items`. settings: all
    that results depend on, but the places of outputs. tables: SHA-256 of each table, in the order
    of `report_paths`.
    """

    shard: int
    shards: int
    items: int
    inputs: str
    settings: dict[str, str]
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Division:
    """The part of everything that was found under the inputs which one shard measures.

    Parts are contiguous, so that the tables of all, one after another, are those of one run, and
    of about equal size by the pixels that headers state. Scans that share a file stay together,
    because a file's failure is reported once.
    """

    shard: tuple[int, int]
    mine: Sequence[Item]
    items: int
    inputs: str

    @classmethod
    def of(cls, items: Sequence[Item], shard: tuple[int, int]) -> "Division":
        """The division of what was found, which is the same for each of its shards."""
        index, count = shard
        blocks = list(_blocks(items))
        sizes = [sum(map(_weight, block)) for block in blocks]
        total, before = sum(sizes), 0
        mine: list[Item] = []
        for block, size in zip(blocks, sizes, strict=True):
            # By its middle; in whole numbers, which are the same everywhere.
            if (2 * before + size) * count // (2 * total) == index - 1:
                mine += block
            before += size
        digest = hashlib.sha256()
        for item in items:
            digest.update(repr(_identity(item)).encode("utf-8", "backslashreplace"))
        return cls(shard, mine, len(items), digest.hexdigest())


def record_shard(report: Path, division: Division | None, settings: Mapping[str, str]) -> None:
    """Write the record beside a report that is complete; that of an earlier run is removed.

    Raises AllFailedError if that fails.
    """
    path = shard_path(report)
    with translated(path):
        path.unlink(missing_ok=True)
        if division is None:
            return
        index, count = division.shard
        record = ShardRecord(
            shard=index,
            shards=count,
            items=division.items,
            inputs=division.inputs,
            settings={n: text for n, text in settings.items() if not n.startswith(FOLDER_OF)},
            tables=tuple(file_digest(table) for table in report_paths(report)),
        )
        with atomic(path) as partial:
            partial.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def shard_path(report: Path) -> Path:
    """Where the record of a shard lies."""
    return report.with_name(f"{report.stem}.shard.json")


def read_shard(report: Path) -> ShardRecord | None:
    """The record of a shard; None for the report of a whole run. WssegError for a damaged one."""
    path = shard_path(report)
    try:
        return ShardRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError) as error:
        raise WssegError(
            f"{path} is no record of a shard ({type(error).__name__}): run that shard again with "
            "--overwrite"
        ) from error


def _blocks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Items one by one, but from the first that has a file to the last that has it as one."""
    last = {source: at for at, item in enumerate(items) for source in _sources(item)}
    begin = reach = 0
    for at, item in enumerate(items):
        reach = max(reach, *(last[source] for source in _sources(item)))
        if reach == at:
            yield items[begin : at + 1]
            begin = reach = at + 1


def _sources(item: Item) -> list[str]:
    return [item.source] if isinstance(item, Failure) else [file.source for file in item.files]


def _weight(item: Item) -> int:
    pixels = 0 if isinstance(item, Failure) else min(item.decoded_bytes, MOST_BYTES)
    return ITEM_BYTES + pixels


def _identity(item: Item) -> tuple[object, ...]:
    """What must be equal on all machines that measure a shard: no paths, and no times of copies."""
    if isinstance(item, Failure):
        return item.source, item.status, item.reason

    def seen(file: FileRef) -> tuple[object, ...]:
        return file.seen if item.kind == "dicom" else file.seen[:1]

    files = [(file.source, *seen(file)) for file in item.files]
    shape = (item.kind, item.volume, item.part, item.flags, item.frames, item.name_ending)
    return (*shape, item.decoded_bytes, *files)
