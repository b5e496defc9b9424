"""The model card of an exported model: what it is, what it was made of, how good it is, what it is not for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from torch import nn

from ddpm.generator import VolumeGenerator
from pipeline.checkpoints.description import GeneratorDescription


def model_card(
    generator: VolumeGenerator,
    description: GeneratorDescription,
    denoiser_hash: str,
    licence: str,
    metrics: Mapping[str, Any] | None,
) -> str:
    """Markdown.

    Args:
        generator, description: of `networks.load_generator`.
        denoiser_hash: of its tensors; the description has those of the others.
        metrics: content of an evaluation's metrics.json.
    """
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"count": _count, "number": _number}
    template = environment.from_string(Path(__file__).with_suffix(".md.j2").read_text(encoding="utf-8"))
    given = {"generator": generator, "about": description, "denoiser_hash": denoiser_hash}
    return template.render(given, licence=licence, metrics=metrics)


def _count(network: nn.Module) -> str:
    count = sum(p.numel() for p in network.parameters())
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"


def _number(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(_number(v) for v in value)
    if value is None:
        return "–"  # not defined, as a correlation of two cases
    return f"{value:.4g}" if isinstance(value, float) else str(value)
