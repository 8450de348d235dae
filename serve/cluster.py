"""`--cluster`: one run whose scans are measured by the workers of a Ray cluster.

The run finds the scans, sends them to workers in groups, and takes the results in the order of an
ordinary run. Workers are actors of a fixed number of CPUs, each with the model and, where the
cluster has GPUs, with one of these.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import wsseg
from wsseg.imaging.errors import AllFailedError, Failure, WssegError
from wsseg.imaging.scan import ScanRef, SliceId
from wsseg.imaging.scratch import scratch_folder
from wsseg.serve.cluster_worker import About, Measured, OpenEngine, Work, Worker, manifest_digest
from wsseg.serve.journal import Journal
from wsseg.serve.known_ratios import KnownSlices
from wsseg.serve.manifest import Manifest
from wsseg.serve.measure import failed_files
from wsseg.serve.options import InferOptions
from wsseg.serve.pipeline import Counts, Outcome, each_failure_once
from wsseg.serve.ray_connection import Slots, connected, lost_errors, slots_of
from wsseg.serve.scan_rows import ScanRows

AT_ONCE = 2
"""Groups that a worker has at once: it reads one while it computes the other."""
GROUP_BYTES = 64 << 20
AHEAD = 64
"""Scans for each worker that may be found before the next one in order is done."""
ATTEMPTS = 3
"""Workers that a scan may cost until it is given up; after the first, it has one to itself."""
DEATHS = 5
"""Workers that may end one after another without any result, until the run is given up."""
PATIENCE_SECONDS = 30.0
"""After which a run that waits for workers says so."""

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Group:
    """Consecutive scans that are sent to a worker together, and what came of them, if it has.

    asked: slices whose recorded ratios were asked for. lost: workers that these scans have cost.
    """

    refs: Sequence[ScanRef]
    outcomes: Sequence[Outcome] | None = None
    asked: Sequence[Sequence[SliceId]] = ()
    lost: int = 0

    @property
    def expected(self) -> int:
        """Slices, as far as they are known before the scans are read."""
        return sum(map(_slices, self.refs))


@dataclass(eq=False)
class _Member:
    """A worker as the run sees it. groups: that it has. ready: takes part in the run."""

    actor: Any
    groups: list[_Group] = field(default_factory=list)
    ready: bool = False


class Cluster:
    """The workers of a run, of which each has opened the same engine.

    options: of the run, with the number of threads that engines have.
    """

    about: About

    def __init__(
        self,
        ray: ModuleType,
        options: InferOptions,
        *,
        manifest: Manifest,
        engine: OpenEngine | None,
        slots: Slots,
    ) -> None:
        self.options = options
        self._ray, self._slots = ray, slots
        self._manifest = manifest_digest(manifest)
        self._actor = ray.remote(Worker).options(
            num_cpus=slots.cpus, num_gpus=slots.gpus, max_concurrency=AT_ONCE
        )
        self._sent = (options, engine)
        self._work: Any = None
        self._members: set[_Member] = set()
        self._opened: list[_Member] = []
        self._answers: dict[Any, tuple[_Member, Callable[[_Member, Any], None]]] = {}
        self._unsent: deque[_Group] = deque()
        self._window: list[_Group] = []
        self._counts = Counts(lambda *_: None)
        self._deaths = 0
        for _ in range(slots.count):
            self._start()
        while not hasattr(self, "about"):
            self._wait()

    @property
    def name(self) -> str:
        """That of the engine, as are the next ones."""
        return self.about.name

    @property
    def precision(self) -> str:
        """See `Engine`."""
        return self.about.precision

    @property
    def file(self) -> str:
        """See `Engine`."""
        return self.about.file

    @property
    def gives_probability(self) -> bool:
        """See `Engine`."""
        return self.about.gives_probability

    def measure(
        self,
        refs: Iterable[ScanRef | Failure | ScanRows],
        counts: Counts,
        *,
        journal: Journal,
        known: KnownSlices | None,
        places: Sequence[Path],
    ) -> Generator[Outcome, None, None]:
        """The outcome of each scan, in the order in which they were found.

        known: recorded ratios. places: files and folders that all workers have to see.
        """
        self._counts = counts
        with ExitStack() as probes:
            work = Work(
                journal.settings,
                journal.scratch,
                known,
                (*places, *(probes.enter_context(scratch_folder(f)) for f in self.options.folders)),
            )
            self._work = self._ray.put(work)
            for member in self._opened:
                self._begin(member)
            outcomes = self._in_order(self._groups(refs, journal), known, journal)
            for outcome in each_failure_once(outcomes):
                counts.end(outcome)
                yield outcome

    def _groups(
        self, refs: Iterable[ScanRef | Failure | ScanRows], journal: Journal
    ) -> Iterator[_Group]:
        """Scans in groups; what needs no worker is a group with outcomes."""
        group: list[ScanRef] = []
        for ref in refs:
            rows = ref if isinstance(ref, ScanRows) else None
            if isinstance(ref, ScanRef) and journal.has_scans:
                rows = journal.find(journal.key(ref), ref)
            if isinstance(ref, ScanRef) and not rows:
                group.append(ref)
                nbytes = sum(each.decoded_bytes for each in group)
                # A volume counts as a batch: it has more slices than can be known yet.
                few = sum(map(_slices, group)) < self.options.batch and ref.kind != "volume"
                if few and nbytes < GROUP_BYTES:
                    continue
            if group:
                yield _Group(group)
                group = []
            if isinstance(ref, Failure):
                yield _Group((), (Outcome(None, (ref,)),))
            elif rows:
                yield _Group((), (Outcome(None, rows.skipped, rows),), asked=(rows.ids,))
        if group:
            yield _Group(group)

    def _in_order(
        self, groups: Iterator[_Group], known: KnownSlices | None, journal: Journal
    ) -> Generator[Outcome, None, None]:
        """Send groups to workers, and give their outcomes in order."""
        while True:
            while len(self._unsent) <= len(self._members) and self._has_room():
                group = next(groups, None)
                if group is None:
                    break
                self._window.append(group)
                if group.outcomes is None:
                    self._unsent.append(group)
                    self._counts.expect(group.expected)
            if not self._window:
                return
            while self._window and self._window[0].outcomes is not None:
                done = self._window.pop(0)
                if known:
                    for slices in done.asked:
                        known.assign(slices)
                yield from done.outcomes or ()
            self._send(journal)
            if self._window and self._window[0].outcomes is None:
                self._wait()

    def _has_room(self) -> bool:
        return sum(len(group.refs) for group in self._window) < AHEAD * max(1, len(self._members))

    def _send(self, journal: Journal) -> None:
        """Give each worker as many groups as it can have; what comes of them is journalled."""
        for member in sorted(self._members, key=lambda one: len(one.groups)):
            while self._unsent and member.ready and len(member.groups) < AT_ONCE:
                group = self._unsent[0]
                if member.groups and (group.lost or member.groups[0].lost):
                    break
                self._unsent.popleft()
                member.groups.append(group)
                answer = member.actor.measure.remote(list(group.refs))

                def store(member: _Member, measured: Measured, group: _Group = group) -> None:
                    member.groups.remove(group)
                    group.outcomes, group.asked = measured.outcomes, measured.asked
                    for outcome in measured.outcomes:  # at once, although it may not be its turn
                        journal.keep(outcome.written)
                        if outcome.recorded and outcome.key and outcome.complete:
                            journal.add(outcome.key, outcome.recorded, outcome.written)
                    self._deaths = 0
                    self._counts.expect(measured.slices - group.expected)
                    self._counts.done(measured.slices)

                self._answers[answer] = (member, store)

    def _wait(self) -> None:
        """Take one answer of a worker, or the news that it has ended."""
        ready, _ = self._ray.wait(list(self._answers), num_returns=1, timeout=PATIENCE_SECONDS)
        if not ready and not any(member.groups for member in self._members):
            logger.info(
                "waiting for workers: the cluster has no %d free CPUs%s yet",
                self._slots.cpus,
                " with a GPU" if self._slots.gpus else "",
                extra={"event": "waiting_for_workers"},
            )
        for answer in ready:
            member, store = self._answers.pop(answer)
            try:
                value = self._ray.get(answer)
            except lost_errors(self._ray) as error:
                if member in self._members:
                    self._lost(member, error)
            else:
                store(member, value)

    def _start(self) -> None:
        member = _Member(self._actor.remote())
        self._members.add(member)
        self._answers[member.actor.open.remote(*self._sent)] = (member, self._on_opened)

    def _on_opened(self, member: _Member, about: About | str) -> None:
        """Check that a worker has opened what the others have."""
        if isinstance(about, str):
            raise WssegError(f"a worker of the cluster cannot open the model: {about}")
        if about.version != wsseg.__version__:
            raise WssegError(
                f"wsseg is {wsseg.__version__} here and {about.version} on {about.node}: install "
                "one version on all machines of the cluster"
            )
        if about.manifest != self._manifest:
            raise WssegError(
                f"{self.options.model} is another model on {about.node}: give all machines of the "
                "cluster the same one"
            )
        first = getattr(self, "about", about)
        if replace(about, node=first.node) != first:
            raise WssegError(
                f"{first.node} measures with {first.name} in {first.precision}, and {about.node} "
                f"with {about.name} in {about.precision}: name one with --engine, --device and "
                "--precision"
            )
        self.about = first
        self._opened.append(member)
        if self._work is not None:
            self._begin(member)

    def _begin(self, member: _Member) -> None:
        self._answers[member.actor.begin.remote(self._work)] = (member, self._on_begun)

    def _on_begun(self, member: _Member, unseen: Sequence[Path]) -> None:
        if unseen:
            raise WssegError(
                f"a worker of the cluster does not see {unseen[0]}: inputs and outputs have to be "
                "on a file system that all machines share, under the same path"
            )
        member.ready = True

    def _lost(self, member: _Member, error: Exception) -> None:
        """Start another worker in place of one that ended, and send its scans again."""
        self._members.remove(member)
        self._deaths += 1
        logger.warning(
            "a worker of the cluster ended (%s): its scans are sent to another one",
            type(error).__name__,
            extra={"event": "worker_lost", "scans": sum(len(g.refs) for g in member.groups)},
        )
        if self._deaths > DEATHS + len(self._members):
            raise AllFailedError(
                f"workers of the cluster ended {self._deaths} times without a result "
                f"({type(error).__name__}): look into the logs of Ray; perhaps they have too "
                "little memory"
            )
        for group in reversed(member.groups):
            again = [_Group((ref,), lost=group.lost + 1) for ref in group.refs]
            at = self._window.index(group)
            self._window[at : at + 1] = again
            for one in reversed(again):
                if one.lost < ATTEMPTS:
                    self._unsent.appendleft(one)
                else:
                    one.outcomes = [Outcome(None, (each,)) for each in _given_up(one.refs[0])]
        self._start()


def _slices(ref: ScanRef) -> int:
    return sum(map(len, ref.frames)) or len(ref.files)


def _given_up(ref: ScanRef) -> tuple[Failure, ...]:
    return failed_files(
        ref,
        "worker_lost",
        f"the process that measured it ended {ATTEMPTS} times: it may need more memory than a "
        "worker has, or the engine fails on it; measure it alone to find out",
    )


@contextmanager
def open_cluster(
    options: InferOptions, manifest: Manifest, scratch: Path, engine: OpenEngine | None
) -> Iterator[Cluster]:
    """Connect to the cluster of the options, or start one here, and open the model on its workers.

    engine: opens another engine than the options ask for. Raises WssegError for a cluster that
    cannot be reached or used.
    """
    with connected(options.cluster or "", scratch) as ray:
        slots = slots_of(ray.nodes(), cpus=options.cluster_cpus, device=options.device)
        options = options.model_copy(
            update={
                **{n: v.absolute() for n, v in options if isinstance(v, Path)},
                "threads": options.threads or slots.cpus,
                "memory_mb": max(1, options.memory_mb // AT_ONCE),
            }
        )
        logger.info(
            "workers: %d, each with %d CPUs%s",
            slots.count,
            slots.cpus,
            " and a GPU" if slots.gpus else "",
            extra={"event": "cluster", "workers": slots.count, "cpus": slots.cpus},
        )
        yield Cluster(ray, options, manifest=manifest, engine=engine, slots=slots)
