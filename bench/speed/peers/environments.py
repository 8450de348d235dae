"""Make an environment for every peer: python -m bench.speed.peers.environments FOLDER

Each gets packages of its own, 6 GB with its torch. --share-torch lends them this environment's
packages instead: quick to make, but a peer then runs with versions that it did not ask for.
"""

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path

REQUIREMENTS = Path(__file__).parent
READY = ".ready"
LENT = "lent.pth"


def names() -> list[str]:
    """The peers, by their files of requirements."""
    return sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def python(folder: Path, name: str) -> Path | None:
    """Python of a peer's environment; None where it was not made."""
    found = (folder / name / "bin" / "python").absolute()
    return found if (folder / name / READY).exists() else None


def make(folder: Path, name: str, *, share_torch: bool) -> None:
    """Make one environment; one that was finished stays as it is."""
    if python(folder, name):
        return
    place = folder / name
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
    own = place / "bin" / "python"
    if share_torch:
        there = subprocess.check_output(
            [own, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        )
        # Behind its own packages in the path, so that those it installs itself win.
        lent = sysconfig.get_path("purelib")
        Path(there.strip(), LENT).write_text(f"{lent}\n", encoding="utf-8")
    requirements = REQUIREMENTS / f"{name}.txt"
    subprocess.run([own, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    (place / READY).touch()


def main() -> None:
    """Read the command line and make them all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share-torch", action="store_true")
    asked = parser.parse_args()
    for name in names():
        print(f"environment of {name}", flush=True)
        make(asked.folder, name, share_torch=asked.share_torch)


if __name__ == "__main__":
    main()
