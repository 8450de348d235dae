"""The options of a run: that they fit together, and that no output replaces an input or another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from wsseg.imaging.definitions import Frozen
from wsseg.imaging.dicom.codes import Codes
from wsseg.imaging.dicom.seg_writer import SegmentationType
from wsseg.imaging.errors import WssegError
from wsseg.imaging.limits import DEFAULT_LIMITS, MIB, ReadLimits
from wsseg.imaging.probability_maps import ProbabilityType
from wsseg.serve.agreement.reference import agreement_of, agreement_paths, plots_of
from wsseg.serve.agreement.tables import AgreeOptions
from wsseg.serve.change import change_path
from wsseg.serve.engines.base import Device, EngineName, EngineOptions, Precision
from wsseg.serve.engines.child import ENGINE_SECONDS, Isolation
from wsseg.serve.intervals import Coverage
from wsseg.serve.pipeline import PixelSize
from wsseg.serve.report import recovered_paths, report_paths
from wsseg.serve.shards import Shard

BATCH = 8
"""Default number of slices that the network sees at once."""
SETTLE = 10.0
"""Default number of seconds for which a file has not changed if it is complete."""


class InferOptions(Frozen):
    """All options of a run, without its inputs.

    masks, overlays, seg, sr: folders for label maps, for pictures with outlined regions, for DICOM
    segmentations and for DICOM structured reports. seg_type, seg_sparse: see `make_segmentation`.
    probability: folder for probability maps, of probability_type. known_ratios: table of recorded
    ratios, from which masks are recovered, see `read_known`. reference: table of recorded ratios
    with which the report is compared when it is written. sheet, ignore_columns: how these tables
    are read, see `TableOptions`. batch: slices that the network sees at once. threads: threads of
    the engine on a CPU; 0 for the cores that the process may use. readers, read_ahead: number of
    reading threads, and of scans that they read ahead. memory_mb: pixels held at once, in MiB,
    besides the engine's own; a larger scan is still read, but alone. max_scan_mb, max_inflated_mb,
    max_frames, max_entries, read_seconds: see `ReadLimits`. isolate, engine_seconds: see
    `engines.child.Isolation`. skip: skip slices that cannot
    show tissue, see `empty_slices.skip_empty`. strict: scans unlike the training images fail
    instead of being flagged, see `inspection.compare_with`. coverage: of the intervals, between 0
    and 1; None for 0.9 if the model is calibrated. overwrite: replace an earlier report. resume: go
    on with a run that did not end, see `journal.Journal`. pixel_mm: (row, column) pixel size of
    pictures that do not state one. codes: what each class is, by a clinical terminology, each in
    place of the model's. query: attributes that the series of a server must match, see
    `parse_query`. series_mb: MiB of one of them at most. store: server that DICOM results are
    stored on too, as `dicomweb:https://host/path`. follow: measure the inputs again and again, see
    `follow.follow`; settle: seconds without a change after which a file is complete; poll: list the
    folders instead of having changes reported. cluster: address of a Ray cluster, or "local" for
    one on this machine, whose workers have cluster_cpus CPUs each; 0 for four, or fewer if no
    machine has as many. shard: (i, n) measures part i of n of the inputs, see `shards.Division`.
    source: "hash" to have keyed digests under `salt` in place of paths in tables, names of files
    and messages, see `HashedName`. identify, salt, real_identifiers, previous, keys, repeatability:
    see `FollowUpOptions`. trust: public keys, of which one must have signed the model, see
    `check_signed`.
    """

    model: Path
    report: Path = Path("ratios.csv")
    masks: Path | None = None
    overlays: Path | None = None
    seg: Path | None = None
    seg_type: SegmentationType = "binary"
    seg_sparse: bool = False
    sr: Path | None = None
    probability: Path | None = None
    probability_type: ProbabilityType = "float32"
    known_ratios: Path | None = None
    reference: Path | None = None
    sheet: str | None = None
    ignore_columns: tuple[str, ...] = ()
    engine: EngineName = "auto"
    device: Device = "auto"
    precision: Precision = "auto"
    threads: NonNegativeInt = 0
    batch: PositiveInt = BATCH
    readers: PositiveInt = 2
    read_ahead: PositiveInt = 8
    memory_mb: PositiveInt = 768
    isolate: bool = True
    engine_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = ENGINE_SECONDS
    max_scan_mb: PositiveInt = DEFAULT_LIMITS.scan_bytes // MIB
    max_inflated_mb: PositiveInt = DEFAULT_LIMITS.inflated_bytes // MIB
    max_frames: PositiveInt = DEFAULT_LIMITS.frames
    max_entries: PositiveInt = DEFAULT_LIMITS.entries
    read_seconds: PositiveFloat = DEFAULT_LIMITS.seconds
    skip: bool = True
    strict: bool = False
    coverage: Coverage | None = None
    overwrite: bool = False
    resume: bool = False
    follow: bool = False
    settle: NonNegativeFloat = SETTLE
    poll: bool = False
    pixel_mm: PixelSize | None = None
    codes: Codes = Field(default_factory=dict)
    cluster: str | None = None
    cluster_cpus: NonNegativeInt = 0
    shard: Shard | None = None
    query: str | None = None
    series_mb: PositiveInt = 4096
    store: str | None = None
    source: Literal["path", "hash"] = "path"
    identify: Path | None = None
    salt: Path | None = None
    real_identifiers: bool = False
    previous: tuple[Path, ...] = ()
    keys: tuple[Path, ...] = ()
    repeatability: str | None = None
    trust: tuple[Path, ...] = ()

    @property
    def limits(self) -> ReadLimits:
        """What reading a file may take."""
        return ReadLimits(
            scan_bytes=self.max_scan_mb * MIB,
            inflated_bytes=self.max_inflated_mb * MIB,
            frames=self.max_frames,
            entries=self.max_entries,
            seconds=self.read_seconds,
        )

    @property
    def recovered(self) -> Path | None:
        """Folder for recovered masks; None without `known_ratios`."""
        return recovered_paths(self.report)[1] if self.known_ratios else None

    @property
    def agreement_plots(self) -> Path | None:
        """Folder for plots of agreement; None without `reference`."""
        return plots_of(self.report) if self.reference else None

    @property
    def agree_options(self) -> AgreeOptions:
        """How the table of `reference` is read."""
        return AgreeOptions(sheet=self.sheet, ignore_columns=self.ignore_columns)

    @property
    def needs_probability(self) -> bool:
        """Whether the engine has to give the probability of each pixel."""
        return self.known_ratios is not None or self.probability is not None

    @property
    def wanted_engine(self) -> EngineOptions:
        """The engine that the options ask for."""
        return EngineOptions(
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            engine=self.engine,
            probability=self.needs_probability,
            rebuild=True,
        )

    @property
    def isolation(self) -> Isolation:
        """How the engine is kept apart."""
        return Isolation(self.isolate, self.engine_seconds)

    @property
    def chosen_folders(self) -> dict[str, Path]:
        """The folders that were asked for, by what is written to them."""
        chosen = {
            "label maps": self.masks,
            "overlays": self.overlays,
            "DICOM segmentations": self.seg,
            "structured reports": self.sr,
            "probability maps": self.probability,
        }
        return {name: folder for name, folder in chosen.items() if folder}

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders that files of scans are written to."""
        return (*self.chosen_folders.values(), *self.folders_beside)

    @property
    def folders_beside(self) -> tuple[Path, ...]:
        """The folders that lie beside the report and have its name."""
        return tuple(filter(None, [self.recovered, self.agreement_plots]))


def check_together(options: InferOptions) -> None:
    """Raise WssegError for an option that says how something is written that is not asked for, and
    for one that needs all scans where a shard has a part of them."""
    _check_division(options)
    if not options.follow and (options.poll or options.settle != SETTLE):
        raise WssegError("--settle and --poll belong to --follow: give it too, or leave them out")
    for folder, belonging in (
        ("seg", ("seg_type", "seg_sparse")),
        ("probability", ("probability_type",)),
    ):
        for name in belonging:
            default = InferOptions.model_fields[name].default
            if getattr(options, folder) is None and getattr(options, name) != default:
                option = f"--{name.replace('_', '-')}"
                raise WssegError(
                    f"{option} belongs to --{folder} DIR, which is missing: give it too, or leave "
                    f"{option} out"
                )
    if options.source == "hash" and options.salt is None:
        raise WssegError(
            "--source hash needs --salt FILE, the secret without which nobody can try names until "
            "one fits: name a file that only this site can read; it is made if it is missing"
        )
    if options.store and not (options.seg or options.sr):
        raise WssegError("--store needs --seg DIR or --sr DIR: it stores what these write")


def _check_division(options: InferOptions) -> None:
    """Raise WssegError for what cannot be done by a shard, or by the workers of a cluster."""
    if options.shard:
        for name, instead in (
            ("known_ratios", "measure the inputs in one run"),
            ("reference", "run wsseg agree on the table that wsseg merge writes"),
            ("previous", "run wsseg change on the table that wsseg merge writes"),
        ):
            if getattr(options, name):
                raise WssegError(
                    f"--{name.replace('_', '-')} needs all scans, and --shard measures a part of "
                    f"them: {instead}"
                )
    if options.cluster and (options.query is not None or options.store or options.follow):
        raise WssegError(
            "--cluster measures files once: leave --query, --store and --follow out, or --cluster"
        )
    if options.cluster_cpus and not options.cluster:
        raise WssegError("--cluster-cpus belongs to --cluster: give it too")


def check_apart(inputs: Sequence[Path], options: InferOptions) -> None:
    """Check that no output replaces an input, or would be measured by the next run.

    Raises WssegError that names the input, the output and the option to change.
    """
    for folder in options.folders:
        beside = folder in options.folders_beside
        place = "the report, beside which it lies" if beside else "it"
        for source in inputs:
            if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
                raise WssegError(
                    f"output folder {folder} lies inside the input folder {source}, where its "
                    f"pictures would be taken for scans: choose another place for {place}"
                )
            if source.is_file() and source.resolve().parent == folder.resolve():
                raise WssegError(
                    f"output folder {folder} holds the input {source}, which its label map would "
                    f"replace: choose another place for {place}"
                )
    _check_tables(inputs, options)
    taken = {options.recovered.resolve(): "recovered masks"} if options.recovered else {}
    for name, folder in options.chosen_folders.items():
        other = taken.setdefault(folder.resolve(), name)
        if other != name:
            raise WssegError(f"{other} and {name} both go to {folder}: choose two folders")


def _check_tables(inputs: Sequence[Path], options: InferOptions) -> None:
    """Check that the tables of a run replace nothing that it reads, nor each other.

    Raises WssegError that names both and the option to change.
    """
    report = options.report
    beside = [*report_paths(report), recovered_paths(report)[0], change_path(report)]
    earlier = [table for each in options.previous for table in report_paths(each)]
    tables = [options.known_ratios, options.reference, options.salt, *options.keys, *earlier]
    read = [*inputs, *filter(None, tables)]
    if options.reference:
        beside += agreement_paths(agreement_of(report))
    for table in beside:
        for source in read:
            if source.resolve() == table.resolve():
                raise WssegError(
                    f"{table} of the report would replace the input {source}: choose another "
                    "--report"
                )
    if keys := options.identify:
        for source in (*beside, *read):
            if source.resolve() == keys.resolve():
                what = "a table of the report" if source in beside else f"the input {source}"
                raise WssegError(
                    f"the key table {keys} would replace {what}: choose another place for "
                    "--identify"
                )
