"""Models that were approved: `wsseg sign`, and `--trust`, which runs no others."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import wsseg
from tests.cli.conftest import call
from tests.serve.conftest import write_model, write_pictures
from wsseg.export.signing import PasswordNeededError, sign_model
from wsseg.imaging.errors import WssegError


def openssl(*arguments: object) -> str:
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make_keys(folder: Path, name: str = "approval") -> tuple[Path, Path]:
    """A private and a public key, as the documentation makes them."""
    private, public = folder / f"{name}.key", folder / f"{name}.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_keys(tmp_path)


@pytest.fixture
def signed(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    folder = write_model(tmp_path / "model")
    call("sign", folder, "--key", keys[0])
    return folder


def test_a_signed_model_runs_with_the_key_that_is_trusted(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
):
    scans = write_pictures(tmp_path / "scans", 1)
    report = tmp_path / "ratios.csv"
    call("infer", scans, "--model", signed, "--report", report, "--trust", keys[1])
    assert report.exists()


def test_other_programs_can_check_the_signature_and_the_files(
    signed: Path, keys: tuple[Path, Path]
):
    said = openssl(
        *("pkeyutl", "-verify", "-pubin", "-inkey", keys[1], "-rawin"),
        *("-in", signed / "SHA256SUMS", "-sigfile", signed / "SHA256SUMS.sig"),
    )
    assert "Successfully" in said
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=signed, check=True)
    listed = (signed / "SHA256SUMS").read_text("utf-8")
    assert {line.split()[1] for line in listed.splitlines()} == {
        each.name for each in signed.iterdir() if not each.name.startswith("SHA256SUMS")
    }


def refusal(model: Path, *trusted: Path) -> str:
    with pytest.raises(WssegError) as refused:
        wsseg.load_model(model, trust=trusted)
    return str(refused.value)


def test_a_model_without_a_signature_is_refused(tmp_path: Path, keys: tuple[Path, Path]):
    assert "is not signed" in refusal(write_model(tmp_path / "model"), keys[1])


def test_a_signature_of_another_key_is_refused_unless_that_is_trusted_too(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
):
    _, other = make_keys(tmp_path, "other")
    assert "none of the trusted keys" in refusal(signed, other)
    assert wsseg.load_model(signed, trust=[other, keys[1]]).classes


@pytest.mark.parametrize("file", ["model.json", "SHA256SUMS", "SHA256SUMS.sig"])
def test_a_changed_file_is_refused(signed: Path, keys: tuple[Path, Path], file: str):
    content = bytearray((signed / file).read_bytes())
    content[-2] ^= 1
    (signed / file).write_bytes(content)
    assert "the model again" in refusal(signed, keys[1])


def test_an_engine_that_was_exchanged_with_its_entry_is_refused(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
):
    other = write_model(tmp_path / "other", b"content")
    for file in other.iterdir():
        shutil.copy(file, signed)
    assert "model.json was changed after it was signed" in refusal(signed, keys[1])


def test_the_environment_can_ask_for_the_key_in_every_run(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, other = make_keys(tmp_path, "other")
    monkeypatch.setenv("WSSEG_TRUST", str(other))
    assert "none of the trusted keys" in call("info", signed, code=2)
    monkeypatch.setenv("WSSEG_TRUST", f"{other}{os.pathsep}{keys[1]}")
    call("info", signed)


def test_a_node_listens_with_a_model_that_was_approved_alone(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, other = make_keys(tmp_path, "other")
    spool = tmp_path / "spool"
    arguments = ("listen", "--model", signed, "--spool", spool)
    assert "none of the trusted keys" in call(*arguments, "--trust", other, code=2)
    monkeypatch.setenv("WSSEG_TRUST", str(other))
    assert "none of the trusted keys" in call(*arguments, code=2)
    assert not spool.exists()
    # An approved one gets as far as the next option that is wrong.
    monkeypatch.setenv("WSSEG_TRUST", str(keys[1]))
    assert "AE@HOST:PORT" in call(*arguments, "--return", "nowhere", code=2)


def test_what_is_no_key_is_named(signed: Path, keys: tuple[Path, Path], tmp_path: Path):
    assert "no public Ed25519 key" in refusal(signed, keys[0])
    assert "cannot be read" in refusal(signed, tmp_path / "missing.pem")
    with pytest.raises(WssegError, match="no private Ed25519 key"):
        sign_model(signed, keys[1])
    rsa = tmp_path / "rsa.pem"
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", rsa)
    with pytest.raises(WssegError, match="no private Ed25519 key"):
        sign_model(signed, rsa)


def test_an_encrypted_key_needs_its_password(tmp_path: Path, keys: tuple[Path, Path]):
    folder, locked = write_model(tmp_path / "model"), tmp_path / "locked.key"
    openssl("pkey", "-in", keys[0], "-aes256", "-passout", "pass:open sesame", "-out", locked)
    with pytest.raises(PasswordNeededError):
        sign_model(folder, locked)
    with pytest.raises(WssegError, match="password is wrong"):
        sign_model(folder, locked, b"wrong")
    sign_model(folder, locked, b"open sesame")
    assert wsseg.load_model(folder, trust=[keys[1]]).classes


def test_a_model_that_is_not_intact_is_not_signed(tmp_path: Path, keys: tuple[Path, Path]):
    folder = write_model(tmp_path / "model")
    (folder / "elsewhere").symlink_to(keys[0])
    with pytest.raises(WssegError, match="plain files alone"):
        sign_model(folder, keys[0])
    (folder / "elsewhere").unlink()
    (folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(WssegError, match="altered or cut"):
        sign_model(folder, keys[0])
    assert not (folder / "SHA256SUMS.sig").exists()
