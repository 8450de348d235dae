"""Raw pixels in, probabilities at the raw grid out: what is evaluated and what is exported."""

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
from torchvision.models.segmentation.deeplabv3 import ASPP, DeepLabV3

from wsseg.train.config import NetworkName
from wsseg.train.data.batch import Outputs
from wsseg.train.data.preprocess import Preprocess
from wsseg.train.distributed import SeededDropout

# DeepLabV3 (V3+ on MobileNetV2) with the paper's reconstruction head.

# Bounds of the area ratio that sets the first bias: outside, the sigmoid's gradient is near 0.
PRIOR_LOW = 0.005
PRIOR_HIGH = 0.9

# Blocks of torchvision's mobilenet_v2().features: the last at 1/4 of the input's size, the last at
# 1/8, the first of the deepest stage, whose stride is replaced by dilation, the last at 96
# channels, which the reconstruction head reads, and the last before the 1x1 convolution to 1280.
V2_FINE = 3
V2_MIDDLE = 6
V2_FIFTH_STRIDE = 14
V2_AUXILIARY = 13
V2_LAST = 17
# The published rates 12, 24, 36 reach beyond the 8 to 16 cells that small pictures have here.
V2_RATES = (3, 6, 9)
V2_WIDTH = 64


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

        image: normalised by `Preprocess.normalise`. The reconstruction ends in a sigmoid, because
        its target is the 0..1 image: it cannot leave the range, and starts at mid grey.
        """
        features = self.backbone(image)
        logits = _enlarge(self.classifier(features), image)
        reconstruction = _enlarge(self.reconstruction(features["aux"]), image)
        return Outputs(logits, reconstruction.sigmoid())

    def coarse_logits(self, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k ch cw"]:
        """Logits at the classifier's own resolution; the reconstruction head does not run."""
        logits: Tensor = self.classifier(self.backbone(image))
        return logits.float()


class Decoder(nn.Module):
    """Pyramid at the coarsest stride, refined by the backbone's features at 1/8 and 1/4.

    Source: Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018. Here the
    levels are added at 64 channels, not stacked: one convolution at 1/4 would otherwise cost more
    than the whole backbone.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.pyramid = nn.Sequential(ASPP(320, list(V2_RATES), 96), *_layer(96, V2_WIDTH, 1))
        self.middle = _layer(32, V2_WIDTH, 1)
        self.fine = _layer(24, V2_WIDTH, 1)
        self.refine = nn.Sequential(
            *_layer(V2_WIDTH, V2_WIDTH, 3), nn.Dropout(0.5), nn.Conv2d(V2_WIDTH, classes, 1)
        )

    def forward(self, features: dict[str, Tensor]) -> Float[Tensor, "n k fh fw"]:
        """Logits at 1/4 of the input's size."""
        fine = self.fine(features["fine"])
        middle = _resized(self.middle(features["middle"]), fine)
        logits: Tensor = self.refine(fine + middle + _resized(self.pyramid(features["out"]), fine))
        return logits


class _FromOut(nn.Sequential):
    """torchvision's head, which reads the last features only; the names of its weights stay."""

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        coarse: Tensor = super().forward(features["out"])  # type: ignore[no-untyped-call]
        return coarse


def _layer(channels: int, width: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


def _resized(features: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)


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
    3; the input always has 3. dropout: probability after the pyramid of the classifier, and before
    the last layer of a decoder.
    """
    backbone, classifier, width = BUILDERS[name](classes)
    for path, module in list(classifier.named_modules()):
        if isinstance(module, nn.Dropout):
            classifier.set_submodule(path, SeededDropout(dropout))
    # The shape of torchvision's auxiliary head, without its dropout: an image to be given back
    # gains nothing from values that are missing.
    reconstruction = nn.Sequential(
        nn.Conv2d(width, width // 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(width // 4),
        nn.ReLU(),
        nn.Conv2d(width // 4, channels, 1),
    )
    return Network(name, backbone, classifier, reconstruction)


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


def _torchvision(build: Callable[..., DeepLabV3], classes: int) -> tuple[nn.Module, nn.Module, int]:
    model = build(weights=None, weights_backbone=None, num_classes=classes, aux_loss=True)
    first = next(m for m in model.aux_classifier.modules() if isinstance(m, nn.Conv2d))
    return model.backbone, _FromOut(*model.classifier), first.in_channels


def deeplab_v3_plus(classes: int) -> tuple[nn.Module, nn.Module, int]:
    """Return the backbone, the decoder, and the channels of the backbone's `aux`, of V3+.

    DeepLabV3+ on MobileNetV2 rather than V3: pyramid at stride 16, logits at stride 4. A step is
    cheaper than at stride 8 without a decoder, and 32 x 32 logits of an image of 128 pixels can
    draw small organs that 16 x 16 ones cannot.
    """
    features = mobilenet_v2(weights=None).features
    # The stride of 2 is taken out of the deepest stage; the blocks after it reach twice as far.
    for block in range(V2_FIFTH_STRIDE, V2_LAST + 1):
        dilation = 1 if block == V2_FIFTH_STRIDE else 2
        for module in features[block].modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.stride = (1, 1)
                module.dilation = module.padding = (dilation, dilation)
    names = {V2_FINE: "fine", V2_MIDDLE: "middle", V2_AUXILIARY: "aux", V2_LAST: "out"}
    backbone = IntermediateLayerGetter(features, {str(k): name for k, name in names.items()})
    return backbone, Decoder(classes), 96


BUILDERS: dict[NetworkName, Callable[[int], tuple[nn.Module, nn.Module, int]]] = {
    "resnet50": partial(_torchvision, deeplabv3_resnet50),
    "resnet101": partial(_torchvision, deeplabv3_resnet101),
    "mobilenet_v3_large": partial(_torchvision, deeplabv3_mobilenet_v3_large),
    "mobilenet_v2": deeplab_v3_plus,
}


class Predictor(nn.Module):
    """Preprocessing and network as one module, without the reconstruction head.

    The coarse logits are resized straight to the raw grid: resizing them to the network's input
    first would blur the edge twice.
    """

    def __init__(self, preprocess: Preprocess, network: Network) -> None:
        super().__init__()
        self.front = preprocess  # a part of the names of constants in exported graphs
        self.network = network

    def forward(self, raw: Float[Tensor, "n c rows columns"]) -> Float[Tensor, "n k rows columns"]:
        """Probability 0..1 of every class at every raw pixel, float32; classes are independent.

        raw: pixels in physical units, any size. Put the module in `eval()` before.
        """
        return self.logits(raw).sigmoid()

    def logits(self, raw: Float[Tensor, "n c rows columns"]) -> Float[Tensor, "n k rows columns"]:
        """Logit of every class at every raw pixel, float32."""
        coarse = self.network.coarse_logits(self.front(raw))
        return F.interpolate(coarse, size=raw.shape[-2:], mode="bilinear", align_corners=False)
