"""The parts of a run, put together from its options: pipeline, outputs, and who made them."""

import hashlib
import logging

import wsseg
from wsseg.imaging.dicom.derived import Maker
from wsseg.imaging.nifti_writer import DESCRIPTION_LENGTH
from wsseg.serve.batching import Limits
from wsseg.serve.dicom_outputs import DicomContext, Sources, segmentations
from wsseg.serve.empty_slices import skip_empty, skip_none
from wsseg.serve.engines.base import Engine, EngineFacts
from wsseg.serve.inspection import compare_with
from wsseg.serve.intervals import Intervals
from wsseg.serve.known_ratios import KnownSlices
from wsseg.serve.manifest import Manifest
from wsseg.serve.options import InferOptions
from wsseg.serve.outputs import (
    Output,
    label_maps,
    overlays,
    probability_maps,
    recovered_masks,
)
from wsseg.serve.pipeline import Pipeline, PrefetchLimits
from wsseg.serve.report import Provenance
from wsseg.serve.structured_report import structured_reports

MIB = 1 << 20

logger = logging.getLogger(__name__)


def pipeline_of(
    engine: Engine,
    manifest: Manifest,
    options: InferOptions,
    *,
    known: KnownSlices | None = None,
    outputs: tuple[Output, ...] = (),
) -> Pipeline:
    """The pipeline of a run, without a journal.

    known: gives the recorded ratios, from which masks are recovered.
    """
    share = options.memory_mb * MIB // 4
    return Pipeline(
        engine=engine,
        manifest=manifest,
        limits=Limits(slices=options.batch, nbytes=share),
        reading=PrefetchLimits(options.readers, options.read_ahead, 2 * share),
        writing=PrefetchLimits(options.readers, options.read_ahead, share),
        outputs=outputs,
        known=known or (lambda _: {}),
        recall=(lambda rows: known.assign(rows.ids)) if known else (lambda _: None),
        skip=skip_empty(manifest.window) if options.skip else skip_none,
        compare=compare_with(manifest),
        strict=options.strict,
        pixel_mm=options.pixel_mm,
        read=options.limits,
    )


def provenance_of(manifest: Manifest, engine: EngineFacts) -> Provenance:
    """What the rows of a run say of its model and engine."""
    sha256 = next(e.sha256 for e in manifest.engines if e.file == engine.file)
    return Provenance(manifest.name, sha256, engine.name, engine.precision, wsseg.__version__)


def outputs_of(
    options: InferOptions,
    manifest: Manifest,
    provenance: Provenance,
    intervals: Intervals | None,
) -> tuple[Output, ...]:
    """What the options ask to be written for each scan, in this order."""
    outputs: list[Output] = []
    if options.masks:
        outputs.append(label_maps(options.masks, _described(provenance, "class numbers")))
    if options.recovered:
        outputs.append(recovered_masks(options.recovered))
    if options.probability:
        words = [_described(provenance, f"p({name})") for name in manifest.classes]
        outputs.append(probability_maps(options.probability, options.probability_type, words))
    if options.overlays:
        outputs.append(overlays(options.overlays, manifest.window))
    sources = Sources(segmentations=options.seg is not None)
    if options.seg:
        maker = _maker(options, manifest, provenance)
        outputs.append(
            segmentations(
                options.seg,
                DicomContext(maker, manifest.classes, manifest.codes, sources),
                kind=options.seg_type,
                sparse=options.seg_sparse,
            )
        )
    if options.sr:
        outputs.append(structured_reports(options.sr, manifest, provenance, intervals, sources))
    return tuple(outputs)


def _described(provenance: Provenance, what: str) -> str:
    """What made a NIfTI file, in the 79 characters that its header has; a long name is cut."""
    made_by = f"; wsseg {provenance.wsseg_version} sha256:{provenance.model_sha256[:16]}"
    return what[: DESCRIPTION_LENGTH - len(made_by)] + made_by


def _maker(options: InferOptions, manifest: Manifest, provenance: Provenance) -> Maker:
    """Who makes the DICOM segmentations of a run, with the settings that change them.

    Engines and precisions can differ in pixels at the edge of a mask.
    """
    if options.seg_type == "labelmap":
        logger.warning(
            "segmentations of type labelmap are read by OHIF from version 3.13 and by dcm4chee, "
            "and not yet by 3D Slicer"
        )
    classes = manifest.model_dump_json(include={"classes", "codes"})
    return Maker(
        model=manifest.name,
        sha256=provenance.model_sha256,
        version=provenance.wsseg_version,
        settings=f"engine={provenance.engine} precision={provenance.precision} "
        f"type={options.seg_type} sparse={options.seg_sparse} skip={options.skip} "
        f"classes={hashlib.sha256(classes.encode()).hexdigest()[:12]}",
    )
