"""What stage 2 needs of the networks of other packages."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor

from common.geometry import Triple


class Codec(Protocol):
    """`vq_gan_3d.codec.FrozenCodec`."""

    def encode_patch(self, ct_context: Tensor) -> Tensor: ...

    def decode_patch(self, z: Tensor) -> Tensor: ...

    decoder_halo: int

    @property
    def has_half(self) -> bool: ...

    def decode_tiles(
        self, z: Tensor, tile: int = 32, half: bool = False, own: slice = ...
    ) -> Iterator[tuple[Triple, Tensor]]: ...


class XrayEncoder(Protocol):
    """`medclip_cond.encoders.XrayEncoder`; what it returns has `pooled` and `tokens`."""

    grid: tuple[int, int]

    def __call__(self, cxr: Tensor) -> Any: ...


class Lifter(Protocol):
    """`medclip_cond.lifting.XrayLifter`."""

    channels: int

    def pyramid(self, xray: Tensor) -> list[Tensor]: ...

    def lift(self, maps: Sequence[Tensor], xray_camera: Tensor, positions: Tensor) -> Tensor: ...
