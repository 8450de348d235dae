#!/usr/bin/env bash
# watchfiles 1.3.0: watch() is a generator, so it registers with the system only when the first
# change is asked for. Who calls watch(), lists the folder and then loops, loses every file that
# came between the listing and the loop, though the order looks safe; and with the defaults the call
# that registers is the one that blocks until a change. With yield_on_timeout=True the first next()
# registers and returns an empty set, after which nothing is lost (list the folder then). 28
# November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet watchfiles==1.3.0
cd "$work"
venv/bin/python - <<'PYTHON'
import pathlib

import watchfiles

for started in (False, True):
    folder = pathlib.Path(f"started-{started}")
    folder.mkdir()
    changes = watchfiles.watch(folder, rust_timeout=1500, yield_on_timeout=True)
    if started:
        assert next(changes) == set()
    (folder / "scan.txt").write_text("one")
    seen = {pathlib.Path(path).name for _, path in next(changes)}
    print("a first next() before the file came:", started, " seen:", sorted(seen))
    assert seen == ({"scan.txt"} if started else set())
    (folder / "later.txt").write_text("two")
    assert {pathlib.Path(path).name for _, path in next(changes)} == {"later.txt"}
PYTHON
