"""Loss terms by the name of a recipe."""

from wsseg.train.term_config import (
    AreaL2,
    BoxEmptiness,
    BoxSize,
    BoxTightness,
    Centroid,
    Confidence,
    CrossEntropy,
    Dice,
    Entropy,
    GatedCrf,
    PartialCrossEntropy,
    RatioPrior,
    Reconstruction,
    Size,
    SizeBarrier,
    SizeBounds,
    SizeKl,
    Spread,
    TagInclusion,
    TagSize,
    TagSuppression,
    TargetCrossEntropy,
    TargetDice,
    TermConfig,
    WeakMark,
)

PRESETS: dict[str, tuple[TermConfig, ...]] = {
    # Everything that is known of a picture, as targets of its pixels; the size keeps them honest.
    "wsseg": (TargetCrossEntropy(), TargetDice(), SizeKl()),
    # Kulkarni, Raff, Oates: ratios and eroded marks, literally, and its two ablations.
    "paper": (Confidence(), Reconstruction(), WeakMark(), Size()),
    "paper-size-only": (Confidence(), Reconstruction(), Size()),
    "paper-mark-only": (Confidence(), Reconstruction(), WeakMark()),
    # Kervadec et al. 2019: partial marks with bounds of the size, as a penalty or as a barrier.
    "size-bounds": (PartialCrossEntropy(), SizeBounds()),
    "log-barrier": (PartialCrossEntropy(), SizeBarrier()),
    # Jia et al. 2017: image tags and a rough area. Inclusion alone would take all of the picture;
    # at this weight of the area the two settle within 0.03 of it for a region of 0.06.
    "area-l2": (TagSuppression(), TagInclusion(), AreaL2(weight=100)),
    # Zhou et al. 2019: partial marks and the ratios of the data set, of no single picture.
    "prior-kl": (PartialCrossEntropy(), RatioPrior()),
    # Bateson et al. 2022: a network trained elsewhere (`weights`) adapts to new pictures by ratios.
    "source-free": (Entropy(weight=0.1), SizeKl()),
    # Kervadec et al. 2019 and Jia et al. 2017: image tags alone.
    "tags": (TagSuppression(), TagInclusion(), TagSize()),
    # Kervadec et al. 2020: tight boxes.
    "boxes": (BoxTightness(), BoxEmptiness(), BoxSize()),
    # Kervadec et al. 2021: a few numbers on the shape; the distances are small parts of a side.
    "moments": (SizeBounds(), Centroid(weight=10), Spread(weight=10)),
    # Obukhov et al. 2019: scribbles, joined with what looks alike once they have been learnt.
    "scribbles": (PartialCrossEntropy(), GatedCrf(start=0.1, ramp=0.3)),
    # Full masks, for comparison.
    "full": (CrossEntropy(), Dice()),
}
