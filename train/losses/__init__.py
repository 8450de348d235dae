"""What is minimised: one class a loss, with its settings, what it reads, and its formula.

A new loss is a class in one of the files, a line in the union at that file's end, and a line here.
"""

from typing import Annotated, get_args

from pydantic import Field

from wsseg.train.losses.area import AreaL2 as AreaL2
from wsseg.train.losses.area import AreaLoss as AreaLoss
from wsseg.train.losses.area import RatioPrior as RatioPrior
from wsseg.train.losses.area import Size as Size
from wsseg.train.losses.area import SizeBarrier as SizeBarrier
from wsseg.train.losses.area import SizeBounds as SizeBounds
from wsseg.train.losses.area import SizeKl as SizeKl
from wsseg.train.losses.area import TagInclusion as TagInclusion
from wsseg.train.losses.area import TagSize as TagSize
from wsseg.train.losses.area import TagSuppression as TagSuppression
from wsseg.train.losses.area import area_log_odds as area_log_odds
from wsseg.train.losses.area import known_shares as known_shares
from wsseg.train.losses.area import soft_ratios as soft_ratios
from wsseg.train.losses.base import Context as Context
from wsseg.train.losses.base import Inputs as Inputs
from wsseg.train.losses.base import Loss as Loss
from wsseg.train.losses.base import MovingMean as MovingMean
from wsseg.train.losses.base import Share as Share
from wsseg.train.losses.base import supervised as supervised
from wsseg.train.losses.base import unsupervised as unsupervised
from wsseg.train.losses.crf import GatedCrf as GatedCrf
from wsseg.train.losses.objective import Objective as Objective
from wsseg.train.losses.objective import Term as Term
from wsseg.train.losses.objective import build_objective as build_objective
from wsseg.train.losses.pixelwise import Confidence as Confidence
from wsseg.train.losses.pixelwise import CrossEntropy as CrossEntropy
from wsseg.train.losses.pixelwise import Dice as Dice
from wsseg.train.losses.pixelwise import Distillation as Distillation
from wsseg.train.losses.pixelwise import Entropy as Entropy
from wsseg.train.losses.pixelwise import Equivariance as Equivariance
from wsseg.train.losses.pixelwise import PartialCrossEntropy as PartialCrossEntropy
from wsseg.train.losses.pixelwise import PartialDice as PartialDice
from wsseg.train.losses.pixelwise import PixelLoss as PixelLoss
from wsseg.train.losses.pixelwise import Reconstruction as Reconstruction
from wsseg.train.losses.pixelwise import TargetCrossEntropy as TargetCrossEntropy
from wsseg.train.losses.pixelwise import TargetDice as TargetDice
from wsseg.train.losses.pixelwise import Teacher as Teacher
from wsseg.train.losses.pixelwise import WeakMark as WeakMark
from wsseg.train.losses.shape import BoxEmptiness as BoxEmptiness
from wsseg.train.losses.shape import BoxSize as BoxSize
from wsseg.train.losses.shape import BoxTightness as BoxTightness
from wsseg.train.losses.shape import Centroid as Centroid
from wsseg.train.losses.shape import ShapeLoss as ShapeLoss
from wsseg.train.losses.shape import Spread as Spread

AnyLoss = Annotated[PixelLoss | AreaLoss | ShapeLoss | GatedCrf, Field(discriminator="kind")]
"""Any loss, as `[[terms]]` of the settings names it by its `kind`."""

LOSSES: tuple[type[Loss], ...] = get_args(get_args(AnyLoss)[0])
