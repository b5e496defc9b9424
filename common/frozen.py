"""Networks that never train."""

from typing import Self

from torch import nn


class Frozen(nn.Module):
    """A trained network that stays as it is: its parameters get no gradients, and train mode cannot be entered.

    Train mode would change a codebook, or the statistics of a batch normalisation.
    """

    def freeze(self) -> None:
        """To be called at the end of a constructor, once all parts are there."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)
