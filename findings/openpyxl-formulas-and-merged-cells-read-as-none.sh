#!/usr/bin/env bash
# openpyxl 3.1.5 gives None, without an error or a warning, for a formula whose value was never
# computed (as in every workbook that a program wrote, not a spreadsheet) when it is asked for values
# (data_only=True), and for all but the first of merged cells. Both look like empty cells. A number
# that is shown as 4.23% is 0.0423: only the number format tells. November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openpyxl==3.1.5
cd "$work"
venv/bin/python -W error - <<'PYTHON'
import openpyxl

book = openpyxl.Workbook()
for line in (["group", "ratio"], ["p1", "=1/8"], ["p2", 0.0423]):
    book.active.append(line)
book.active["B3"].number_format = "0.00%"
book.active.merge_cells("A2:A3")
book.save("t.xlsx")
values = openpyxl.load_workbook("t.xlsx", data_only=True).active
print("formula:", values["B2"].value, " second of merged cells:", values["A3"].value)
print("shown as 4.23%:", values["B3"].value, values["B3"].number_format)
assert (values["B2"].value, values["A3"].value) == (None, None)
assert values["B3"].value == 0.0423
PYTHON
