"""What a process that does one run is told."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.accuracy.jobs import Job


@dataclass(frozen=True)
class Task:
    """A job, and the folders and settings of the benchmark that it belongs to.

    scale: its name. weights: as in the training settings. work: where tables and networks go.
    """

    job: Job
    scale: str
    data: str
    weights: str
    work: str
    out: str

    @property
    def weights_name(self) -> str:
        """The starting weights as the table names them: without folder and suffix."""
        return Path(self.weights).stem

    def to_json(self) -> str:
        """One line, for `from_json` in another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Task":
        """The task that `to_json` wrote."""
        told = json.loads(line)
        return cls(Job(**told.pop("job")), **told)
