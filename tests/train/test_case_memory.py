"""The check of a table takes a bounded amount of memory, however many threads read."""

import threading

import numpy as np
from PIL import Image

from wsseg.imaging.limits import Room
from wsseg.train.cases import checks, files, read_cases, table


def test_cases_that_do_not_fit_into_memory_together_are_read_one_after_another(
    tmp_path, monkeypatch
):
    names = [f"{index}.png" for index in range(12)]
    for index, name in enumerate(names):
        Image.fromarray(np.full((64, 64), index, np.uint8)).save(tmp_path / name)
    cases = tmp_path / "cases.csv"
    cases.write_text("image,ratio\n" + "".join(f"{name},0.1\n" for name in names))
    lock, now, most = threading.Lock(), 0, 0
    check_case = checks.check_case

    def counted(*given, **named):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        try:
            return check_case(*given, **named)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(table, "check_case", counted)
    slice_bytes = 64 * 64 * files.PIXEL_BYTES["picture"]
    monkeypatch.setattr(files, "DECODING", Room(slice_bytes + 1))
    assert len(read_cases(cases).cases) == len(names)
    assert most == 1
    monkeypatch.setattr(files, "DECODING", Room(1))  # larger than all of it: alone
    assert len(read_cases(cases).cases) == len(names)
    assert most == 1
