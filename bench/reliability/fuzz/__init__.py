"""Coverage-guided fuzzing: whatever an input holds, only errors of wsseg's own types come out.

`python -m bench.reliability.fuzz` needs `pip install --group fuzz` (atheris).
"""
