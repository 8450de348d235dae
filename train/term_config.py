"""Settings of every loss term: frozen, closed and typed, told apart by `kind`."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from wsseg.train.term_settings import Interval, PositiveShare, Share, TermSettings


class Confidence(TermSettings):
    """L_c of the paper: keeps probabilities away from 0.5."""

    kind: Literal["confidence"] = "confidence"


class Reconstruction(TermSettings):
    """L_r of the paper: the auxiliary head gives the input back."""

    kind: Literal["reconstruction"] = "reconstruction"


class WeakMark(TermSettings):
    """L_ws of the paper: marked pixels belong to the class.

    average "image" divides the sum over the mark by all pixels (the paper's formula taken as a
    mean), "mark" by the marked pixels, which makes the term about a hundred times stronger.
    """

    kind: Literal["weak_mark"] = "weak_mark"
    average: Literal["image", "mark"] = "image"


class Size(TermSettings):
    """L_s of the paper: absolute error of the predicted area ratio."""

    kind: Literal["size"] = "size"


class CrossEntropy(TermSettings):
    """Binary cross-entropy on full masks."""

    kind: Literal["cross_entropy"] = "cross_entropy"


class Dice(TermSettings):
    """Soft Dice loss on full masks."""

    kind: Literal["dice"] = "dice"


class PartialCrossEntropy(TermSettings):
    """Cross-entropy on marked pixels; marks of anything else are negatives."""

    kind: Literal["partial_cross_entropy"] = "partial_cross_entropy"


class PartialDice(TermSettings):
    """Soft Dice loss on marked pixels."""

    kind: Literal["partial_dice"] = "partial_dice"


class TargetCrossEntropy(TermSettings):
    """Cross-entropy with the targets made from marks and ratios."""

    kind: Literal["target_cross_entropy"] = "target_cross_entropy"


class TargetDice(TermSettings):
    """Soft Dice loss with the targets made from marks and ratios."""

    kind: Literal["target_dice"] = "target_dice"


class SizeKl(TermSettings):
    """Zero-avoiding divergence of the predicted area ratio from the known one."""

    kind: Literal["size_kl"] = "size_kl"


class AreaL2(TermSettings):
    """Squared error of the predicted area ratio of classes that are in the picture."""

    kind: Literal["area_l2"] = "area_l2"


class _Bounds(TermSettings):
    """Where the bounds of a ratio come from if a case states none.

    margin: a known ratio, less and more this fraction of itself; none: a known ratio is not used.
    common: bounds for every other picture in which the class is not tagged as absent.
    """

    margin: NonNegativeFloat | None = 0.1
    common: Interval | None = None


class SizeBounds(_Bounds):
    """Squared relative distance of the predicted ratio from its bounds."""

    kind: Literal["size_bounds"] = "size_bounds"


class SizeBarrier(_Bounds):
    """Log-barrier on the bounds of the ratio; sharpness: at the start and at the end of the run."""

    kind: Literal["size_barrier"] = "size_barrier"
    weight: PositiveFloat = 0.1
    sharpness: Annotated[float, Field(ge=1, le=50)] = 5.0
    final_sharpness: Annotated[float, Field(ge=1, le=50)] = 50.0


class RatioPrior(TermSettings):
    """Divergence of the mean predicted ratio, over images, from a prior of each class.

    prior: one ratio a class; empty: the mean of the training cases. decay: of the moving mean.
    """

    kind: Literal["ratio_prior"] = "ratio_prior"
    prior: tuple[NonNegativeFloat, ...] = ()
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9


class TagSuppression(TermSettings):
    """No pixel of a class that is tagged as absent."""

    kind: Literal["tag_suppression"] = "tag_suppression"


class TagInclusion(TermSettings):
    """Some pixel of a class that is tagged as present; exponent: the larger, the fewer pixels."""

    kind: Literal["tag_inclusion"] = "tag_inclusion"
    exponent: Annotated[float, Field(ge=1, le=64)] = 4.0


class TagSize(TermSettings):
    """At least the share `smallest` of the picture for a class that is tagged as present."""

    kind: Literal["tag_size"] = "tag_size"
    smallest: PositiveShare = 0.001


class BoxTightness(TermSettings):
    """Every strip across a box crosses its region; strip, thickness: shares of the side."""

    kind: Literal["box_tightness"] = "box_tightness"
    strip: PositiveShare = 0.02
    thickness: PositiveShare = 0.004


class BoxEmptiness(TermSettings):
    """No pixel of a class outside its box."""

    kind: Literal["box_emptiness"] = "box_emptiness"


class BoxSize(TermSettings):
    """A class takes no less and no more than these parts of its box's area."""

    kind: Literal["box_size"] = "box_size"
    parts: Interval = (0.5, 0.9)


class Centroid(TermSettings):
    """Distance of the centre of mass from the known one; margin: a share of the side."""

    kind: Literal["centroid"] = "centroid"
    margin: Share = 0.05


class Spread(TermSettings):
    """Difference of the standard deviations from the known ones; margin: a share of the side."""

    kind: Literal["spread"] = "spread"
    margin: Share = 0.02


class Entropy(TermSettings):
    """Entropy of each pixel; classes: a weight for each class, none for equal ones."""

    kind: Literal["entropy"] = "entropy"
    classes: tuple[PositiveFloat, ...] = ()


class GatedCrf(TermSettings):
    """Neighbours that look alike agree; for the settings see `gated_crf.Kernel`."""

    kind: Literal["gated_crf"] = "gated_crf"
    cells: Annotated[int, Field(ge=2, le=512)] = 64
    radius: Annotated[int, Field(ge=1, le=32)] = 5
    position: PositiveFloat = 0.1
    intensity: PositiveFloat = 0.1


class Equivariance(TermSettings):
    """A moved picture gets the moved answer."""

    kind: Literal["equivariance"] = "equivariance"


class Teacher(TermSettings):
    """The answer stays near that of the averaged network."""

    kind: Literal["teacher"] = "teacher"


class Distillation(TermSettings):
    """The answer stays near that of the finished run that `distill` names.

    temperature: that both answers are softened by; above 1 the less sure pixels count for more.
    """

    kind: Literal["distillation"] = "distillation"
    temperature: Annotated[float, Field(ge=0.1, le=100)] = 1.0


_PaperTerm = Confidence | Reconstruction | WeakMark | Size
_PixelTerm = (
    CrossEntropy | Dice | PartialCrossEntropy | PartialDice | TargetCrossEntropy | TargetDice
)
_SizeTerm = SizeKl | AreaL2 | SizeBounds | SizeBarrier | RatioPrior
_TagTerm = TagSuppression | TagInclusion | TagSize
_ShapeTerm = BoxTightness | BoxEmptiness | BoxSize | Centroid | Spread
_UnlabelledTerm = Entropy | GatedCrf | Equivariance | Teacher | Distillation

TermConfig = Annotated[
    _PaperTerm | _PixelTerm | _SizeTerm | _TagTerm | _ShapeTerm | _UnlabelledTerm,
    Field(discriminator="kind"),
]
