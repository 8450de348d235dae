"""With hashed sources, no output and no message has the names of files and folders."""

import csv
import gzip
import io
import logging
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import call
from tests.imaging.conftest import _write_dicom
from tests.serve.conftest import (
    BROKEN_VALUE,
    ThresholdEngine,
    label_maps,
    picture,
    rows,
    run,
    write_model,
    write_pictures,
    write_volume,
)
from tests.serve.recovery import BOTH
from wsseg.imaging import ScanRef
from wsseg.imaging.discovery import find
from wsseg.imaging.errors import Failure, WssegError
from wsseg.imaging.hashed_names import HashedName, real_name
from wsseg.imaging.watched import Watched
from wsseg.serve.infer import Kept, infer
from wsseg.serve.journal import journal_path
from wsseg.serve.known_ratios import KnownSlices
from wsseg.serve.merge import merge
from wsseg.serve.options import InferOptions

CANARY = "canary"
TABLES = ("ratios.csv", "ratios.series.csv", "ratios.failures.csv")


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture(seed)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Scans and files that are none, each under a name that nothing may tell."""
    folder = tmp_path / "in" / "Canary^Folder"
    for name in ("b-canary.png", "a-canary.png", "canary.Canarysuffix"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(len(name)))
    (folder / "z-canary.png").symlink_to(folder / "a-canary.png")  # named before
    (folder / "canarylost.png").symlink_to("canarytarget.png")
    (folder / "canarypacked.png.gz").write_bytes(gzip.compress(png(3)))
    (folder / "canarybroken.png").write_bytes(png(4)[:200])
    (folder / "canarynone.nii.gz").write_bytes(gzip.compress(b"no volume of Canary"))
    (folder / "canaryempty.dcm").touch()
    (folder / "canaryempty2").touch()
    (folder / "canarynotes.txt").write_text("no image")
    (folder / "canary.img").write_bytes(b"\0" * 64)
    (folder / "canary.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\n"
        "ElementDataFile = canaryvoxels.raw\n"
    )
    # In one series, so that the order is that of names.
    for name, value in (("canary2", 150), ("canary1", 250), ("canary3", 180)):
        pixels = np.full((16, 16), value, np.int16)
        pixels[:4] = 0
        _write_dicom(folder / "dicom" / f"{name}.dcm", pixels, ImagePositionPatient=None)
    for number in range(2):
        position = [0.0, 0.0, 2.0 * number]
        path = folder / "placed" / f"canary{number}.dcm"
        _write_dicom(
            path,
            pixels,
            ImagePositionPatient=position,
            SeriesInstanceUID="1.2.3.4",
            StudyInstanceUID="1.2.3",
        )
    copied = (folder / "dicom" / "canary1.dcm").read_bytes()
    (folder / "dicom" / "canarycopy.dcm").write_bytes(copied)
    (folder / "dicom" / "canarytorn.dcm").write_bytes(copied[:-100].replace(b"1.2.", b"1.3."))
    slices = np.stack([picture(index) for index in range(10, 13)])
    write_volume(folder / "canary.nii.gz", slices)
    broken = slices.astype(np.float32)
    broken[0, 0, 0] = BROKEN_VALUE
    write_volume(folder / "canary_engine.nii.gz", broken)
    with zipfile.ZipFile(folder / "canary.zip", "w") as archive:
        archive.writestr("Canary^Member/canary.png", png(5))
        archive.writestr("canary.HDR/canarybroken.dcm", b"no image")
        archive.writestr("../canaryoutside.png", png(6))
        archive.writestr("canaryinner.zip", (b"PK\x03\x04" + b"\0" * 60))
        archive.writestr("canaryinner.png.gz", gzip.compress(png(7)))
    (folder / "canarytorn.zip").write_bytes(b"PK\x03\x04 canary")
    return folder.parent


def everything(folder: Path) -> bytes:
    """Names and contents of all files below a folder; what is packed is unpacked."""
    found = b""
    for path in sorted(folder.rglob("*")):
        found += path.relative_to(folder).as_posix().encode() + b"\n"
        if path.is_file():
            content = path.read_bytes()
            found += gzip.decompress(content) if path.suffix == ".gz" else content
    return found


def outputs(folder: Path) -> dict[str, Path]:
    names = ("masks", "overlays", "seg", "sr", "probability")
    return {name: folder / name for name in names}


def without_sources(folder: Path, names: dict[str, str]) -> list[list[list[str]]]:
    """The cells of all tables of a run, with hashed sources replaced by the names behind them."""
    found = []
    for name in TABLES:
        text = (folder / name).read_text(encoding="utf-8")
        for source, real in names.items():
            text = text.replace(source, real)
        found.append(list(csv.reader(io.StringIO(text))))
    return found


def names_below(folder: Path, scratch: Path, salt: bytes) -> dict[str, str]:
    """The name of each file that has a source, by this source."""
    found = {}
    for item in find([folder], scratch=scratch, salt=salt):
        for source in (
            [item.source] if isinstance(item, Failure) else [f.source for f in item.files]
        ):
            assert isinstance(source, HashedName)
            found[str(source)] = source.name
    return found


@pytest.fixture
def salt(tmp_path: Path) -> Path:
    path = tmp_path / "salt"
    path.write_text("ab" * 32)
    path.chmod(0o600)
    return path


@pytest.mark.slow
def test_no_output_and_no_message_has_a_name(tmp_path, inputs, salt, caplog, capfd):
    model = write_model(tmp_path / "model")
    out = tmp_path / "out"
    with caplog.at_level(logging.DEBUG):
        summary = run(
            model, out / "ratios.csv", inputs, source="hash", salt=salt,
            **outputs(out),
        )  # fmt: skip
    assert summary.scans >= 7
    assert summary.failed >= 8
    assert summary.skipped >= 3
    found = everything(out).lower()
    told = "\n".join(f"{line.getMessage()} {vars(line)}" for line in caplog.records)
    shown = capfd.readouterr()
    assert CANARY.encode() not in found.replace(b"canary^patient", b"").replace(b"canary-1", b"")
    assert CANARY not in told.lower() + "".join(shown).lower()
    assert all(any((out / name).iterdir()) for name in outputs(out))


def test_the_tables_are_those_of_an_ordinary_run_with_other_sources(tmp_path, inputs, salt):
    model = write_model(tmp_path / "model")
    run(model, tmp_path / "named" / "ratios.csv", inputs)
    hashed = tmp_path / "hashed"
    run(model, hashed / "ratios.csv", inputs, source="hash", salt=salt)
    names = names_below(inputs, tmp_path / "scratch", bytes.fromhex("ab" * 32))
    assert len(set(names.values())) == len(names) > 12
    assert without_sources(hashed, names) == without_sources(tmp_path / "named", {})


def test_equal_salts_give_equal_sources_and_no_other_one_does(tmp_path, salt):
    model, folder = write_model(tmp_path / "model"), write_pictures(tmp_path / "in", 3)
    (tmp_path / "other").write_text("cd" * 32)
    (tmp_path / "other").chmod(0o600)
    sources = []
    for number, secret in enumerate((salt, salt, tmp_path / "other")):
        out = tmp_path / str(number)
        run(model, out / "ratios.csv", folder, source="hash", salt=secret, masks=out / "masks")
        sources.append({row["source"] for row in rows(out / "ratios.csv")})
        assert {path.name for path in label_maps(out / "masks")} == sources[-1]
    assert sources[0] == sources[1]
    assert not sources[0] & sources[2]
    assert all(len(source) == len(f"{'0' * 32}.png") for source in sources[0])


def test_a_suffix_is_kept_only_where_it_tells_no_more_than_the_format():
    salt = b"s" * 32
    names = ("a.NII.GZ", "a.png", "ct.mueller", "1.2.840", "a.mueller.gz", "a.dcm.gz", "IM0001")
    kept = [str(HashedName(name, salt))[32:] for name in names]
    assert kept == [".nii.gz", ".png", "", "", "", ".dcm.gz", ""]


def test_without_a_salt_the_run_ends_before_a_scan_is_read(model, tmp_path):
    with pytest.raises(WssegError, match="--source hash needs --salt FILE"):
        run(model, tmp_path / "ratios.csv", write_pictures(tmp_path / "in", 1), source="hash")


def test_recorded_ratios_find_their_files_by_their_names(tmp_path, salt):
    model = write_model(tmp_path / "model", ratios=BOTH)
    folder = write_pictures(tmp_path / "in" / "canary", 3).parent
    first, second, _ = sorted(path.name for path in (folder / "canary").iterdir())
    lines = ["source,ratio:bright", f"canary/{first},0.2", f"{second},0.3", "canarygone.png,0.1"]
    (tmp_path / "known.csv").write_text("\n".join(lines))
    out = tmp_path / "out"
    summary = run(
        model, out / "ratios.csv", folder, source="hash", salt=salt,
        known_ratios=tmp_path / "known.csv",
    )  # fmt: skip
    secret = bytes.fromhex("ab" * 32)
    expected = [HashedName(f"canary/{name}", secret) for name in (first, second)]
    assert summary.recovered == 2
    assert [row["source"] for row in rows(out / "ratios.recovered.csv")] == expected
    assert CANARY.encode() not in everything(out).lower()


@pytest.mark.slow
def test_a_comparison_finds_files_by_their_names(tmp_path, salt):
    model = write_model(tmp_path / "model", ratios=BOTH)
    folder = write_pictures(tmp_path / "in" / "canary", 6).parent
    names = sorted(path.name for path in (folder / "canary").iterdir())
    lines = ["source,ratio:bright", *(f"canary/{name},0.{at + 1}" for at, name in enumerate(names))]
    (tmp_path / "recorded.csv").write_text("\n".join(lines))
    out = tmp_path / "out"
    summary = run(
        model, out / "ratios.csv", folder, source="hash", salt=salt,
        reference=tmp_path / "recorded.csv",
    )  # fmt: skip
    assert summary.compared
    assert not summary.compared.failed
    pairs = rows(out / "ratios.agreement.pairs.csv")
    assert [row["recorded"] for row in pairs] == [f"0.{at + 1}" for at in range(6)]
    assert CANARY.encode() not in everything(out).lower()


def test_an_interrupted_run_goes_on_with_the_same_salt_alone(tmp_path, inputs, salt):
    model = write_model(tmp_path / "model")
    out = tmp_path / "out"
    options = InferOptions(
        model=model, report=out / "ratios.csv", source="hash", salt=salt, batch=1, readers=1,
        read_ahead=1,
    )  # fmt: skip

    def stop(done: int, *_: float) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    def measured(options: InferOptions, on_progress=lambda *_: None):
        return infer([inputs], options, engine=ThresholdEngine, on_progress=on_progress)

    with pytest.raises(KeyboardInterrupt):
        measured(options, stop)
    journal = journal_path(out / "ratios.csv")
    assert CANARY.encode() not in journal.read_bytes().lower()
    kept = journal.read_bytes()
    assert measured(options.model_copy(update={"resume": True})).resumed >= 2
    whole = (out / "ratios.csv").read_bytes()
    for changes in ({"source": "path", "salt": None}, {"salt": tmp_path / "new"}):
        journal.write_bytes(kept)
        again = options.model_copy(update={"resume": True, **changes})
        assert measured(again).resumed == 0
        assert (out / "ratios.csv").read_bytes() != whole


def test_the_key_table_has_the_path_only_on_demand(tmp_path, salt):
    model, folder = write_model(tmp_path / "model"), write_pictures(tmp_path / "in" / "canary", 1)
    for real in (False, True):
        out = tmp_path / str(real)
        keys = out / "keys.csv"
        run(
            model, out / "ratios.csv", folder.parent, source="hash", salt=salt, identify=keys,
            real_identifiers=real,
        )  # fmt: skip
        (row,) = rows(keys)
        assert row["path"].startswith("canary/") == real
        assert keys.stat().st_mode & 0o077 == 0 or os.name != "posix"
        keys.unlink()
        assert CANARY.encode() not in everything(out).lower()


def test_the_command_hashes_and_shows_no_name(tmp_path, inputs):
    model = write_model(tmp_path / "model")
    options = ["--source", "hash", "--salt", tmp_path / "s", "--verbose", "--no-isolate"]
    command = [inputs, "--model", model, "--report", tmp_path / "out" / "ratios.csv", *options]
    assert CANARY not in call("infer", *command, "--json-log", code=8).lower()
    assert CANARY.encode() not in everything(tmp_path / "out").lower()


@pytest.mark.slow
def test_joined_shards_are_one_hashed_run(tmp_path, inputs, salt):
    model = write_model(tmp_path / "model")
    reports = [tmp_path / name / "ratios.csv" for name in ("whole", "one", "two", "joined")]
    for report, shard in zip(reports, (None, (1, 2), (2, 2)), strict=False):
        run(model, report, inputs, source="hash", salt=salt, shard=shard)
    merge(reports[1:3], reports[3])
    for name in TABLES:
        joined = (reports[3].parent / name).read_bytes()
        assert joined == (reports[0].parent / name).read_bytes()
    for report in reports:
        assert CANARY.encode() not in everything(report.parent).lower()


@pytest.mark.slow
def test_followed_folders_give_the_tables_of_a_hashed_run(tmp_path, inputs, salt):
    model = write_model(tmp_path / "model")
    run(model, tmp_path / "whole" / "ratios.csv", inputs, source="hash", salt=salt)
    watched = Watched((inputs,), 0.0)
    options = InferOptions(
        model=model, report=tmp_path / "out" / "ratios.csv", source="hash", salt=salt, device="cpu",
        isolate=False, resume=True, overwrite=True,
    )  # fmt: skip
    for again in range(2):
        watched.look()
        watched.look()
        watched.take()
        summary = infer([inputs], options, kept=Kept(watched))
        assert (summary.resumed > 0) == bool(again)
    for name in TABLES:
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == whole
    assert CANARY.encode() not in everything(tmp_path / "out").lower()


def test_a_worker_of_a_cluster_gets_names_and_no_salt(tmp_path):
    folder = write_pictures(tmp_path / "in", 2)
    salt = os.urandom(32)
    refs = [r for r in find([folder], scratch=tmp_path, salt=salt) if isinstance(r, ScanRef)]
    known = KnownSlices("t.csv", [], refs, salt=salt)
    sent = pickle.dumps((refs, known))
    assert salt not in sent
    assert pickle.loads(sent)[0] == refs
    names = [[real_name(file.source) for file in ref.files] for ref in pickle.loads(sent)[0]]
    assert names == [[path.name] for path in sorted(folder.iterdir())]
