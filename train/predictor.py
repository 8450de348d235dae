"""Raw pixels in, probabilities at the raw grid out: what is evaluated and what is exported."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from wsseg.train.front import Front
from wsseg.train.networks import Network


class Predictor(nn.Module):
    """Front and network as one module, without the reconstruction head.

    The coarse logits are resized straight to the raw grid: resizing them to the network's input
    first would blur the edge twice.
    """

    def __init__(self, front: Front, network: Network) -> None:
        super().__init__()
        self.front = front
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
