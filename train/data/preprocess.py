"""From raw pixels to what the network sees; one module, so training and serving cannot differ."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from wsseg.imaging.definitions import SPAN_SD, Window

# Mean and standard deviation of ImageNet's RGB images on 0..1, which the pretrained weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)

# A spread below this share of the largest value is rounding: the image is constant.
CONSTANT = 1e-6


class Preprocess(nn.Module):
    """Raw pixels of any size -> intensity window -> square of `size` -> ImageNet normalisation.

    window: see `Window`. size: edge of the network's square input, pixels. channels: 1 grey or
    3 RGB, as read. Holds no weights and adds nothing to a state_dict. A raw value that is not a
    finite number (outside the scanner's view, in some NIfTI files) counts as the fixed window's
    low end, or as 0 where the window is the image's own.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, window: Window, size: int, channels: int) -> None:
        super().__init__()
        self.window = window
        self.size = size
        self.channels = channels
        # Constants of the graph, not weights: a checkpoint must not carry them.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("sd", torch.tensor(IMAGENET_SD).view(3, 1, 1), persistent=False)

    def forward(self, raw: Float[Tensor, "n c rows columns"]) -> Float[Tensor, "n 3 s s"]:
        """Network input for raw pixels: `normalise(prepare(raw))`."""
        return self.normalise(self.prepare(raw))

    def prepare(self, raw: Float[Tensor, "n c rows columns"]) -> Float[Tensor, "n c s s"]:
        """0..1 intensities at the network's size for raw pixels in physical units."""
        return self.resized(self.windowed(raw))

    def resized(self, image: Float[Tensor, "n c rows columns"]) -> Float[Tensor, "n c s s"]:
        """An image at the network's size."""
        # Plain bilinear, because a smoothing resize has no counterpart in TensorRT and in most
        # ONNX runtimes; half-pixel centres are the convention all of them share.
        return F.interpolate(
            image, size=(self.size, self.size), mode="bilinear", align_corners=False
        )

    def windowed(self, raw: Float[Tensor, "n c rows columns"]) -> Float[Tensor, "n c rows columns"]:
        """0..1 intensities at the raw grid for raw pixels in physical units."""
        fixed = self.window.kind == "fixed"
        return self.windowed_finite(
            torch.where(torch.isfinite(raw), raw, self.window.low if fixed else 0.0)
        )

    def windowed_finite(
        self, raw: Float[Tensor, "n c rows columns"]
    ) -> Float[Tensor, "n c rows columns"]:
        """The same for pixels that are known to be finite, as those of images that were read."""
        return self._fixed(raw) if self.window.kind == "fixed" else self._own(raw)

    def normalise(self, image: Float[Tensor, "n c s s"]) -> Float[Tensor, "n 3 s s"]:
        """Intensities in ImageNet's units for 0..1 intensities; grey is repeated to RGB."""
        return (image.expand(-1, 3, -1, -1) - self.mean) / self.sd

    def _fixed(self, raw: Tensor) -> Tensor:
        low, high = self.window.low, self.window.high
        return ((raw - low) / (high - low)).clamp(0.0, 1.0)

    def _own(self, raw: Tensor) -> Tensor:
        every_pixel = (1, 2, 3)
        centred = raw - raw.mean(every_pixel, keepdim=True)
        sd = centred.square().mean(every_pixel, keepdim=True).sqrt()
        constant = sd <= CONSTANT * raw.abs().amax(every_pixel, keepdim=True)
        spread = torch.where(constant, 1.0, 2 * SPAN_SD * sd)
        relative = torch.where(constant, 0.0, centred / spread)
        return (relative + 0.5).clamp(0.0, 1.0)
