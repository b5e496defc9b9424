"""A GPU on paper: tensors on "cuda" that have sizes, types and places, but no numbers, on a machine without one.

Within `FakeGPU` code runs as it would beside a GPU. What is on the host is computed as ever; what is on "cuda" is a
FakeTensor, whose operations check devices and give sizes. So a tensor on the wrong device raises as on a GPU, reading
a number back is seen (on a GPU the host waits there), and what tensors would hold is counted by storage.
"""

from __future__ import annotations

import ctypes
import math
import traceback
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from benchmarks.fake_backward import backward

ROOT = Path(__file__).resolve().parents[1]
CUDA, META = torch.device("cuda", 0), torch.device("meta")
_FOREACH = [Tensor, nn.Parameter, FakeTensor]  # what several kernels are launched at once for
LARGE = 2**24  # numbers
BLOCK = 512  # bytes, of which the allocator gives whole multiples
aten = torch.ops.aten


class _Fakes(FakeTensorMode):
    avoid_device_init = True  # it would ask whether there is a GPU


class FakeGPU(TorchDispatchMode):
    """A context in which "cuda" is there.

    Attributes:
        live, peak: bytes of the tensors on it, now and at most. kept: those at `begin`.
        waits: how often the host waited for it, by place: "file:function" of the innermost code of ours.
        operations: how many it was asked for, about as many as kernels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.kept = self.operations = 0
        self.waits: Counter[str] = Counter()
        self._fakes = _Fakes()
        self._counted: set[int] = set()
        self._undo = ExitStack()

    def put(self, network: nn.Module, device: torch.device = CUDA) -> Any:
        """A network that was built on meta, with parameters and buffers here or on the host, but without numbers."""
        with self._fakes:
            for part in network.modules():
                for name, weight in part.named_parameters(recurse=False):
                    part._parameters[name] = nn.Parameter(_like(weight, device), weight.requires_grad)
                for name, buffer in part.named_buffers(recurse=False):
                    part._buffers[name] = _like(buffer, device)
        for tensor in (*network.parameters(), *network.buffers()):
            self._count(tensor.data)
        return network

    def begin(self) -> None:
        """What is held now is kept; peak, waits and operations count from here."""
        self.kept = self.peak = self.live
        self.operations = 0
        self.waits.clear()

    def __enter__(self) -> FakeGPU:
        _make_guard()
        torch._C._set_only_lift_cpu_tensors(True)  # else torch.tensor(..., device="cuda") copies before a mode sees it
        self._undo.callback(torch._C._set_only_lift_cpu_tensors, False)
        for target, name, replacement in (
            (torch.cuda, "is_available", lambda: True),
            (torch.cuda, "is_bf16_supported", lambda including_emulation=True: True),
            (torch.cuda, "device_count", lambda: 1),
            (torch.cuda, "_lazy_init", lambda: None),
            (torch.cuda, "Event", lambda: SimpleNamespace(record=lambda: None, synchronize=self._wait)),
            (torch, "Generator", _Generator),
            (nn.Module, "to", lambda network, device: self.put(network, torch.device(device))),
            (import_module("torch.optim.optimizer"), "_foreach_supported_types", _FOREACH),
            (import_module("torch.utils._foreach_utils"), "_foreach_supported_types", _FOREACH),
            (torch.Tensor, "backward", backward),
            (torch._C, "_current_graph_task_id", lambda: 0),  # of checkpoints: all belong to one backward pass
        ):
            self._undo.enter_context(mock.patch.object(target, name, replacement))
        self._undo.enter_context(_GpuAttention())
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        self._undo.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default:  # asked for by every look at `tensor.device`
            return args[0].fake_device
        kwargs = dict(kwargs or {})
        kwargs.pop("pin_memory", None)  # which a build without CUDA cannot
        if kwargs.get("device") == META:  # what the guard of `_make_guard` makes of a "cuda" without a number
            kwargs["device"] = CUDA
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        fakes = [tensor for tensor in inputs if isinstance(tensor, FakeTensor)]
        to_gpu = _is_gpu(kwargs.get("device"))
        if not to_gpu and not fakes and not (not inputs and _is_large(args)):
            return func(*args, **kwargs)
        on_gpu = any(_is_gpu(tensor.fake_device) for tensor in fakes)
        if on_gpu and func is aten._local_scalar_dense.default:
            self._wait()
            return _some_number(args[0].dtype)
        given = (args, kwargs)
        if len(fakes) < len(inputs):
            given = tree_map_only(Tensor, self._as_fake, given)
        with self._fakes:
            out = func(*given[0], **given[1])
        if to_gpu or on_gpu:
            results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, FakeTensor)]
            if on_gpu and not all(_is_gpu(t.fake_device) for t in results):
                self._wait(not (kwargs.get("non_blocking") or (func is aten.copy_.default and True in args[2:])))
                return _brought_to_host(out, args[0] if func._schema.is_mutable else None)
            made = [self._count(tensor) for tensor in results]
            self.operations += any(made) or func._schema.is_mutable
        return out

    def _wait(self, waits: bool = True) -> None:
        self.waits.update([_place()] * waits)

    def _as_fake(self, tensor: Tensor) -> FakeTensor:
        return tensor if isinstance(tensor, FakeTensor) else self._fakes.from_tensor(tensor)

    def _count(self, tensor: Any) -> bool:
        """Whether it is on this GPU and shares no memory with what is there already."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if not _is_gpu(tensor.fake_device) or key in self._counted:
            return False
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._counted.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size).atexit = False
        return True

    def _free(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.live -= size


class _Generator(torch.Generator):
    """Of any device: on paper it draws nothing."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]


def _like(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def _is_gpu(device: torch.device | None) -> bool:
    return device is not None and device.type == "cuda"


def _is_large(args: Sequence[Any]) -> bool:
    """Whether a tensor of this size, made on the host, would take long there: whole latents are drawn there."""
    return bool(args) and isinstance(args[0], list | tuple | torch.Size) and math.prod(args[0]) > LARGE


def _brought_to_host(copy: FakeTensor, into: Tensor | None) -> Tensor:
    """A tensor that host code can go on with, unless it is large."""
    if into is not None:
        return into if isinstance(into, FakeTensor) else into.zero_()
    return copy if copy.numel() > LARGE else torch.zeros(copy.shape, dtype=copy.dtype)


def _some_number(dtype: torch.dtype) -> Any:
    """What a number that nobody computed is taken for: checks pass, and infinite gradients were not found."""
    return True if dtype == torch.bool else 0.0 if dtype.is_floating_point else 0


def _place() -> str:
    """Where the innermost code of ours is; that of torch, if there is none."""
    frames = [f for f in traceback.extract_stack() if f.filename != __file__]
    ours = [f for f in frames if f.filename.startswith(str(ROOT)) and ".venv" not in f.filename]
    innermost = (ours or frames)[-1]
    return f"{Path(innermost.filename).as_posix().removeprefix(ROOT.as_posix() + '/')}:{innermost.name}"


class _GpuAttention(TorchFunctionMode):
    """As a GPU would choose: flash attention in half precision, else the memory-efficient one."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not scaled_dot_product_attention or args[0].device.type != "cuda":
            return func(*args, **(kwargs or {}))
        q, k, v = args[:3]
        if torch.is_autocast_enabled("cuda"):
            q, k, v = (t.to(torch.get_autocast_dtype("cuda")) for t in (q, k, v))
        if q.dtype == torch.float32:
            return aten._scaled_dot_product_efficient_attention(q, k, v, None, torch.is_grad_enabled())[0]
        return aten._scaled_dot_product_flash_attention(q, k, v)[0]


def _make_guard() -> None:
    """Let a build without CUDA take "cuda" for a device: torch asks for an object that switches devices, and the one
    of "meta" does nothing."""
    torch._C._ensureCUDADeviceGuardSet()  # serves builds with CUDA
    if torch.backends.cuda.is_built():
        return
    library = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libc10.so"))
    kinds = (ctypes.c_void_p * 21).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    cuda, meta = 1, 14  # c10/core/DeviceType.h
    kinds[cuda] = kinds[meta]
