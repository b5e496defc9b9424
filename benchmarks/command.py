"""A benchmark as a command: options of its own beside Hydra overrides, and one JSON object as the last line."""

import inspect
import json
import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import make_dataclass
from functools import wraps
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import UserError
from pipeline import cli

Measure = Callable[..., Mapping[str, Any]]


def benchmark(config: str | None = None) -> Callable[[Measure], Callable[[], None]]:
    """Makes a command of a function whose arguments with defaults are the options; the figures it returns are printed.

    A user's mistake ends in one message and status 2, as in the scripts.

    Args:
        config: the script's config that all other words of the command line override; the function takes them as its
            first argument. None: there may be no others.
    """

    def decorate(measure: Measure) -> Callable[[], None]:
        @wraps(measure)
        def main() -> None:
            logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
            known = {key: p for key, p in inspect.signature(measure).parameters.items() if p.default is not p.empty}
            try:
                own, overrides = split(sys.argv[1:], known)
                if overrides and config is None:
                    there = " ".join(f"{key}={p.default}" for key, p in known.items())
                    raise UserError(f"unknown option {overrides[0]!r}; those there are, with their defaults: {there}")
                figures = measure(*([] if config is None else [overrides]), **read(known, own))
            except Exception as error:
                cli.end(error, config or "train_ddpm")
            print(json.dumps(figures))

        return main

    return decorate


def split(words: Sequence[str], keys: Collection[str]) -> tuple[list[str], list[str]]:
    """Words `key=value` whose key is one of these, and all others."""
    own = [word for word in words if "=" in word and word.partition("=")[0] in keys]
    return own, [word for word in words if word not in own]


def read(known: Mapping[str, inspect.Parameter], words: Sequence[str]) -> dict[str, Any]:
    """The options with these `key=value`, several values with commas; UserError for a value of another kind."""
    kinds = make_dataclass("Options", [(key, p.annotation, p.default) for key, p in known.items()])
    given: dict[str, Any] = dict(word.split("=", 1) for word in words)
    for key in given:
        if isinstance(known[key].default, tuple):
            given[key] = given[key].strip("[]").split(",")
    try:
        return vars(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kinds), given)))
    except OmegaConfBaseException as error:
        raise UserError(str(error)) from error
