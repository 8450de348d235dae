"""DeepLabV3 with the paper's reconstruction head, on four backbones."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation import (
    deeplabv3_mobilenet_v3_large,
    deeplabv3_resnet50,
    deeplabv3_resnet101,
)
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3

from wsseg.train.batch import Outputs
from wsseg.train.config import NetworkName
from wsseg.train.parallel import SeededDropout

# Bounds of the area ratio that sets the first bias: outside, the sigmoid's gradient is near 0.
PRIOR_LOW = 0.005
PRIOR_HIGH = 0.9

# Blocks of torchvision's mobilenet_v2().features: the ones whose stride, the fourth and fifth, is
# replaced by dilation, the last at 96 channels, which the reconstruction head reads, and the last
# before the 1x1 convolution to 1280 channels.
V2_FOURTH_STRIDE = 7
V2_FIFTH_STRIDE = 14
V2_MIDDLE = 13
V2_LAST = 17
# The published rates 12, 24, 36 reach beyond the 16 to 32 cells that small pictures have here.
V2_RATES = (6, 12, 18)


class Network(nn.Module):
    """Backbone with two heads: the classifier, and one that gives the input image back.

    The names `backbone` and `classifier` and everything below them are torchvision's, so its
    published weights fit. name: of the backbone.
    """

    def __init__(
        self,
        name: NetworkName,
        backbone: nn.Module,
        classifier: nn.Module,
        reconstruction: nn.Module,
    ) -> None:
        super().__init__()
        self.name = name
        self.backbone = backbone
        self.classifier = classifier
        self.reconstruction = reconstruction

    def forward(self, image: Float[Tensor, "n 3 h w"]) -> Outputs:
        """Logits and reconstruction at the input's size, float32.

        image: normalised by `Front.normalise`. The reconstruction ends in a sigmoid, because its
        target is the 0..1 image: it cannot leave the range, and starts at mid grey.
        """
        features = self.backbone(image)
        logits = _enlarge(self.classifier(features["out"]), image)
        reconstruction = _enlarge(self.reconstruction(features["aux"]), image)
        return Outputs(logits, reconstruction.sigmoid())

    def coarse_logits(self, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k ch cw"]:
        """Logits at the classifier's own resolution; the reconstruction head does not run."""
        logits: Tensor = self.classifier(self.backbone(image)["out"])
        return logits.float()


def _enlarge(coarse: Tensor, image: Tensor) -> Tensor:
    # float32 first: under bfloat16 autocast the steps between neighbouring logits would show.
    return F.interpolate(
        coarse.float(), size=image.shape[-2:], mode="bilinear", align_corners=False
    )


def build_network(
    name: NetworkName, *, classes: int, channels: int, dropout: float = 0.5
) -> Network:
    """A network with fresh weights, drawn from torch's global generator (seed it before).

    classes: maps the classifier gives. channels: of the image the reconstruction head gives, 1 or
    3; the input always has 3. dropout: probability after the pyramid of the classifier.
    """
    backbone, classifier, width = BUILDERS[name](classes)
    for path, module in list(classifier.named_modules()):
        if isinstance(module, nn.Dropout):
            classifier.set_submodule(path, SeededDropout(dropout))
    return Network(name, backbone, classifier, _reconstruction_head(width, channels))


def set_prior(network: Network, ratios: Sequence[float]) -> None:
    """Start every class at its mean area ratio: the last bias becomes logit(ratio).

    ratios: share of the image, one per class, 0..1, bounded to PRIOR_LOW..PRIOR_HIGH; NaN, where
    it is unknown, leaves that bias as it is.
    """
    bias = last_layer(network).bias
    if bias is None or len(bias) != len(ratios):
        raise AssertionError("one ratio per class of the network")
    for number, ratio in enumerate(ratios):
        if not math.isnan(ratio):
            prior = min(max(ratio, PRIOR_LOW), PRIOR_HIGH)
            with torch.no_grad():
                bias[number] = math.log(prior / (1 - prior))


def last_layer(network: Network) -> nn.Conv2d:
    """The 1x1 convolution that gives the logits."""
    layers = [module for module in network.classifier.modules() if isinstance(module, nn.Conv2d)]
    return layers[-1]


def _reconstruction_head(width: int, channels: int) -> nn.Sequential:
    # The shape of torchvision's auxiliary head, without its dropout: an image to be given back
    # gains nothing from values that are missing.
    middle = width // 4
    return nn.Sequential(
        nn.Conv2d(width, middle, 3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, channels, 1),
    )


def _torchvision(build: Callable[..., DeepLabV3], classes: int) -> tuple[nn.Module, nn.Module, int]:
    model = build(weights=None, weights_backbone=None, num_classes=classes, aux_loss=True)
    first = next(m for m in model.aux_classifier.modules() if isinstance(m, nn.Conv2d))
    return model.backbone, model.classifier, first.in_channels


def _mobilenet_v2(classes: int) -> tuple[nn.Module, nn.Module, int]:
    # Output stride 8, as torchvision's ResNets have it. Stride 16 takes half the time a step, but
    # its cells are too coarse for small organs: the best mask that 8 x 8 logits of a 128 pixel
    # picture can draw reaches an IoU of 0.59 on kidneys, that of 16 x 16 logits 0.81.
    features = mobilenet_v2(weights=None).features
    _dilate(features, V2_FOURTH_STRIDE, V2_FIFTH_STRIDE, before=1)
    _dilate(features, V2_FIFTH_STRIDE, V2_LAST + 1, before=2)
    backbone = IntermediateLayerGetter(features, {str(V2_MIDDLE): "aux", str(V2_LAST): "out"})
    return backbone, DeepLabHead(320, classes, atrous_rates=V2_RATES), 96


def _dilate(features: nn.Sequential, first: int, end: int, *, before: int) -> None:
    """Take the stride of 2 out of block `first` and double the reach of the blocks after it.

    before: dilation of the blocks that come before, which the first block itself keeps.
    """
    for number in range(first, end):
        dilation = before if number == first else 2 * before
        for module in features[number].modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.stride = (1, 1)
                module.dilation = module.padding = (dilation, dilation)


BUILDERS: dict[NetworkName, Callable[[int], tuple[nn.Module, nn.Module, int]]] = {
    "resnet50": partial(_torchvision, deeplabv3_resnet50),
    "resnet101": partial(_torchvision, deeplabv3_resnet101),
    "mobilenet_v3_large": partial(_torchvision, deeplabv3_mobilenet_v3_large),
    "mobilenet_v2": _mobilenet_v2,
}
