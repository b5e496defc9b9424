"""The command line of a benchmark: its own options beside the Hydra overrides of the config that it measures."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from common.errors import UserError
from pipeline import cli


def split(argv: Sequence[str], defaults: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """A benchmark's own options `key=value`, those not given from `defaults`; and everything else."""
    own, rest = dict(defaults), []
    for argument in argv:
        key, _, value = argument.partition("=")
        if key in defaults:
            own[key] = value
        else:
            rest.append(argument)
    return own, rest


def own(argv: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The options of a benchmark that takes no others; ValueError names those it does not know."""
    options, unknown = split(argv, defaults)
    if unknown:
        known = " ".join(f"{key}={value}" for key, value in defaults.items())
        raise UserError(f"unknown option {unknown[0]!r}; those there are, with their defaults: {known}")
    return options


def composed(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """A script's config with overrides, as the script would see it."""
    GlobalHydra.instance().clear()
    cli.register_resolvers()
    with initialize_config_dir(str(cli.CONFIG_DIR), version_base="1.3"):
        return compose(config_name, list(overrides))


def reports_mistakes(config_name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """A user's mistake ends in one message and status 2, as in the scripts."""

    def decorate(main: Callable[[], None]) -> Callable[[], None]:
        @wraps(main)
        def guarded() -> None:
            try:
                main()
            except cli.USER_MISTAKES as error:
                print(f"error: {cli.explain(error, config_name)}", file=sys.stderr)
                sys.exit(cli.USER_ERROR)

        return guarded

    return decorate
