"""Backward passes without torch's engine, which a build without CUDA refuses for tensors on "cuda"."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def backward(loss: Tensor, gradient: Tensor | None = None, *_: Any, **__: Any) -> None:
    """`loss.backward()`, nodes in the order of torch's engine.

    Each node is let go of once it is done, and what it kept with it; the loss is no longer part of the graph.
    """
    walk = _Walk(loss.grad_fn, torch.ones_like(loss) if gradient is None else gradient)
    loss.detach_()
    with torch.no_grad():
        while walk.ready:
            walk.step()


class _Walk:
    """Of a graph, from its root: nodes that are `ready` have got all their gradients."""

    def __init__(self, root: Any, gradient: Tensor) -> None:
        self.waiting = _uses(root)
        self.gradients: dict[Any, dict[int, Tensor]] = {}
        self.ready: list[Any] = [(0, 0, root, {0: gradient})]
        self._steps = itertools.count(1)

    def step(self) -> None:
        _, _, node, given = heapq.heappop(self.ready)
        arguments = [_fitting(given.pop(i, None), wanted) for i, wanted in enumerate(node._input_metadata)]
        nexts = node.next_functions
        results = _call(node, arguments) if any(a is not None for a in arguments) else [None] * len(nexts)
        del node, arguments
        for (following, slot), result in zip(nexts, results, strict=False):
            if following is not None:
                self._hand_on(following, slot, result)

    def _hand_on(self, node: Any, slot: int, gradient: Tensor | None) -> None:
        key = _key(node)
        sums = self.gradients.setdefault(key, {})
        if gradient is not None:
            sums[slot] = gradient if slot not in sums else sums[slot] + gradient
        self.waiting[key] -= 1
        if not self.waiting[key]:
            heapq.heappush(self.ready, (-_order(node), next(self._steps), node, self.gradients.pop(key)))


def _fitting(gradient: Tensor | None, wanted: Any) -> Tensor | None:
    """A gradient in the shape and type of what it is a gradient of."""
    if gradient is None:
        return None
    if gradient.shape != wanted.shape:
        gradient = gradient.sum_to_size(wanted.shape)
    return gradient.to(wanted.dtype)


def _call(node: Any, arguments: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    call = node.apply if hasattr(node, "apply") else node  # of a torch.autograd.Function, or of torch's own
    out = call(*arguments)
    return out if isinstance(out, tuple) else (out,)


def _key(node: Any) -> Any:
    return ("parameter", id(node.variable)) if hasattr(node, "variable") else node._sequence_nr()


def _order(node: Any) -> int:
    return 2**62 if hasattr(node, "variable") else node._sequence_nr()


def _uses(root: Any) -> Counter[Any]:
    """How many gradients each node of a graph waits for."""
    uses: Counter[Any] = Counter()
    seen, stack = {_key(root)}, [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                key = _key(node)
                uses[key] += 1
                if key not in seen:
                    seen.add(key)
                    stack.append(node)
    return uses
