"""`wsseg merge`: the reports of several runs as one, those of shards exactly as one run's."""

import csv
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import lock_output
from wsseg.serve.journal import file_digest, journal_path, require_finished
from wsseg.serve.report import (
    PARQUET_ROWS,
    placed_together,
    recovered_paths,
    report_paths,
    require_free,
    required_pyarrow,
    translated,
)
from wsseg.serve.shards import ShardRecord, read_shard, shard_path

FIRST_COLUMN = "source"
"""Of all tables of a report."""
_MODEL = ("model", "model_sha256")
_IDENTITY = ("study_uid", "series_uid", "frame", "part", "ratio_name")


def merge(reports: Sequence[Path], out: Path, *, overwrite: bool = False) -> str:
    """Join reports of wsseg-infer into one report; returns what was done, in words.

    Reports of shards give the tables of one run, byte by byte, in whichever order they are named.
    Other reports, of runs on different inputs, are joined in the order given. overwrite: replace an
    earlier report.

    Raises WssegError, before anything is written, for shards that are missing, doubled, unfinished,
    changed since or not of one division, model and settings; and for reports that differ in columns
    or model or share a series. AllFailedError if the report cannot be written.
    """
    _check_paths(reports, out)
    records = {report: read_shard(report) for report in reports}
    shards = {report: record for report, record in records.items() if record}
    if shards and len(shards) < len(records):
        other = next(report for report, record in records.items() if not record)
        raise WssegError(
            f"{next(iter(shards))} is of a shard, and {other} is not: join the shards first"
        )
    if shards:
        _check_shards(shards)
        reports = sorted(reports, key=lambda report: shards[report].shard)
    tables = {report: _tables(report) for report in reports}
    recovered = {len(each) for each in tables.values()}
    if len(recovered) > 1:
        raise WssegError(
            "some of the reports have a table of recovered masks beside them, and some have none: "
            "join those of each kind by themselves"
        )
    targets = _paths(out, recovered=recovered == {4})
    if not shards:
        _check_series({report: each[1] for report, each in tables.items()})
    with lock_output(out, f"another run is writing {out}: wait for it, or name another --out"):
        require_free(out, recovered=len(targets) == 4, overwrite=overwrite)
        if not overwrite:
            require_finished(out)
        with placed_together(targets) as scratch:
            for file, parts in zip(scratch, zip(*tables.values(), strict=True), strict=True):
                _join(parts, file, out)
        shard_path(out).unlink(missing_ok=True)  # of an earlier report of that name
    kind = "shards" if shards else "reports"
    return f"joined {len(reports)} {kind}; wrote {out}"


def _check_paths(reports: Sequence[Path], out: Path) -> None:
    """Check that all reports are there, once, finished and of the format of `out`."""
    report_paths(out)
    seen: set[Path] = set()
    for report in reports:
        if report.suffix.lower() != out.suffix.lower():
            raise WssegError(
                f"{report} and {out} are of different formats: give --out the suffix of the reports"
            )
        if report.resolve() == out.resolve():
            raise WssegError(f"{out} would replace the input {report}: choose another --out")
        if report.resolve() in seen:
            raise WssegError(f"{report} is named twice: name each report once")
        seen.add(report.resolve())
        if journal_path(report).exists():
            raise WssegError(
                f"the run of {report} did not end, or still goes on: finish it with --resume first"
            )
        for table in report_paths(report):
            if not table.is_file():
                raise WssegError(
                    f"{table} is missing: name reports that wsseg-infer wrote, each with the "
                    "tables beside it"
                )


def _check_shards(shards: Mapping[Path, ShardRecord]) -> None:
    """Check that these are all shards of one division, each once, as they were written."""
    first, one = next(iter(shards.items()))
    by_number: dict[int, Path] = {}
    for report, record in shards.items():
        if record.shards != one.shards:
            raise WssegError(
                f"{first} is one of {one.shards} shards, and {report} one of {record.shards}: join "
                "shards of one division"
            )
        if (record.inputs, record.items) != (one.inputs, one.items):
            raise WssegError(
                f"{first} and {report} divided different inputs ({one.items} and {record.items} "
                "scans and files, by their names and sizes): measure all shards of the same "
                "inputs, while nothing is added to them"
            )
        names = one.settings.keys() | record.settings.keys()
        other = sorted(n for n in names if one.settings.get(n) != record.settings.get(n))
        if other:
            raise WssegError(
                f"{first} and {report} were measured with different settings "
                f"({', '.join(other)}): measure all shards alike"
            )
        if record.shard in by_number:
            raise WssegError(
                f"{by_number[record.shard]} and {report} are both shard {record.shard} of "
                f"{record.shards}: name each once"
            )
        by_number[record.shard] = report
        for table, digest in zip(report_paths(report), record.tables, strict=True):
            if file_digest(table) != digest:
                raise WssegError(
                    f"{table} was changed after its shard was measured: run shard "
                    f"{record.shard}/{record.shards} again with --overwrite"
                )
    missing = [str(n) for n in range(1, one.shards + 1) if n not in by_number]
    if missing:
        raise WssegError(
            f"of {one.shards} shards, these are missing: {', '.join(missing)}; name all reports"
        )


def _paths(report: Path, *, recovered: bool) -> list[Path]:
    return [*report_paths(report), *([recovered_paths(report)[0]] if recovered else [])]


def _tables(report: Path) -> list[Path]:
    """The tables of a report: of slices, series, failures, and of recovered masks if it has one."""
    return _paths(report, recovered=recovered_paths(report)[0].is_file())


def _check_series(tables: Mapping[Path, Path]) -> None:
    """Check that the tables of series, by their reports, are of one model and share no scan."""
    model: tuple[Path, list[str]] | None = None
    seen: dict[bytes, int] = {}
    for number, (report, table) in enumerate(tables.items()):
        for used, identity, source in _scans(table):
            model = model or (report, used)
            if used != model[1]:
                raise WssegError(
                    f"{model[0]} and {report} were measured with different models ({model[1][0]}, "
                    f"{model[1][1][:12]} and {used[0]}, {used[1][:12]}): join those of one model"
                )
            digest = hashlib.blake2b(identity.encode(), digest_size=12).digest()
            earlier = seen.setdefault(digest, number)
            if earlier != number:
                raise WssegError(
                    f"{list(tables)[earlier]} and {report} both have the scan {source}: "
                    "leave one of them out, or measure both inputs in one run"
                )


def _scans(table: Path) -> Iterator[tuple[list[str], str, str]]:
    """The model, the identity and the source of each row of a table of series."""
    try:
        for row in _ROWS[table.suffix.lower()](table):
            # A series is one wherever its files lie; without a UID, a file is known by its name.
            names = _IDENTITY if row["series_uid"] else ("source", *_IDENTITY)
            identity = [str(row[name] or "") for name in names]
            yield [str(row[name]) for name in _MODEL], repr(identity), row["source"]
    except (LookupError, TypeError, ValueError) as error:
        raise WssegError(
            f"{table} cannot be read: expected a table that wsseg-infer wrote"
        ) from error


def _csv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="ascii") as stream:
        yield from map(json.loads, stream)


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    for batch in required_pyarrow().parquet.ParquetFile(path).iter_batches(PARQUET_ROWS):
        yield from batch.to_pylist()


def _join(parts: Sequence[Path], file: Path, out: Path) -> None:
    """Join tables of one kind. Raises WssegError for one that differs from the first."""
    try:
        with translated(out):
            _JOIN[out.suffix.lower()](parts, file)
    except ValueError as error:
        names = ", ".join(map(str, parts))
        raise WssegError(
            f"of {names} one cannot be read: expected tables that wsseg-infer wrote"
        ) from error


def _join_csv(parts: Sequence[Path], out: Path) -> None:
    header = b""
    with out.open("wb") as stream:
        for part in parts:
            with part.open("rb") as table:
                own = table.readline()
                if not header:
                    header = own
                    _check_first(own.decode().split(","))
                    stream.write(header)
                if own != header:
                    raise _other_columns(parts[0], part)
                shutil.copyfileobj(table, stream)


def _join_json(parts: Sequence[Path], out: Path) -> None:
    columns: list[str] = []

    def begin(table: BinaryIO) -> list[str]:
        line = table.readline()
        table.seek(0)
        return list(json.loads(line)) if line else columns

    with out.open("wb") as stream:
        for part in parts:
            with part.open("rb") as table:
                columns = columns or begin(table)
                _check_first(columns or [FIRST_COLUMN])
                if begin(table) != columns:
                    raise _other_columns(parts[0], part)
                shutil.copyfileobj(table, stream)


def _join_parquet(parts: Sequence[Path], out: Path) -> None:
    """In row groups as `parquet_table` makes them, wherever those of the parts end."""
    arrow = required_pyarrow()
    schema = arrow.parquet.read_schema(parts[0])
    _check_first(schema.names)
    waiting = schema.empty_table()
    with arrow.parquet.ParquetWriter(out, schema) as writer:
        for part in parts:
            table = arrow.parquet.ParquetFile(part)
            if table.schema_arrow != schema:
                raise _other_columns(parts[0], part)
            for batch in table.iter_batches(PARQUET_ROWS):
                more = arrow.Table.from_batches([batch])
                waiting = arrow.concat_tables([waiting, more]).combine_chunks()
                while len(waiting) >= PARQUET_ROWS:
                    writer.write_table(waiting[:PARQUET_ROWS].combine_chunks())
                    waiting = waiting[PARQUET_ROWS:].combine_chunks()
        writer.write_table(waiting)


def _check_first(columns: Sequence[str]) -> None:
    """Raise ValueError for the columns of another table."""
    if columns[0] != FIRST_COLUMN:
        raise ValueError(columns[0])


def _other_columns(first: Path, other: Path) -> WssegError:
    return WssegError(
        f"{first} and {other} have different columns: join reports of one version of wsseg, as it "
        "wrote them"
    )


_ROWS = {".csv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}
_JOIN = {".csv": _join_csv, ".jsonl": _join_json, ".parquet": _join_parquet}
