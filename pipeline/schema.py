"""What a setting may be: kind and range of the values in all groups of all commands.

A key means the same wherever it stands, so its last name finds its rule; where it does not, more of the key is given.
What is wrong with a setting is said of it, not also of those that refer to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import le, lt
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import AfterValidator, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from common.errors import UserError

_REFERENCE = re.compile(r"\$\{([\w.\[\]]+)\}")  # to another setting; other interpolations derive a value


_OF_A_PART = re.compile(r"(module|trainer|callbacks)\.|.*\._\w+_$")  # an argument of what a command builds


@dataclass(frozen=True, eq=False)
class Rule:
    """What it says, and the type that pydantic holds a value to, strictly."""

    says: str
    kind: Any

    def __or__(self, other: Rule) -> Rule:
        return Rule(f"{self.says} or {other.says}", self.kind | other.kind)

    def allows(self, value: Any) -> bool:
        try:
            TypeAdapter(self.kind, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
        except ValidationError:
            return False
        return True


def one_of(*choices: str | int) -> Rule:
    return Rule(" or ".join(map(str, choices)), Literal[choices])


def whole(least: int) -> Rule:
    return Rule(f"a whole number from {least}", Annotated[int, Field(ge=least)])


def number(says: str, **limits: Any) -> Rule:
    return Rule(says, Annotated[float, Field(**limits)])


def several(says: str, each: Rule, length: int | None = None, least: int = 0) -> Rule:
    limits = Field(min_length=length or least, max_length=length)
    return Rule(says, Annotated[list[each.kind], limits])  # type: ignore[name-defined]


def ordered(pair: Rule, order: Callable[[float, float], bool]) -> Rule:
    def check(values: list[float]) -> list[float]:
        if not order(*values):
            raise ValueError(values)
        return values

    return Rule(pair.says, Annotated[pair.kind, AfterValidator(check)])


NULL, TRUTH, GROUP = Rule("null", type(None)), Rule("true or false", bool), Rule("a group of settings", dict[str, Any])
TEXT = Rule("text, and not empty", Annotated[str, Field(pattern=r"\S")])  # of an empty path "." would come
FINITE = Rule("a finite number", JsonValue)  # or no number: of the settings without another rule
POSITIVE, NOT_NEGATIVE = number("a number above 0", gt=0), number("a number from 0", ge=0)
SHARE, PART = number("a number from 0 to 1", ge=0, le=1), number("a number from 0 to below 1", ge=0, lt=1)
VIEW = Rule("lateral, xray_2, xray_3, ...", Annotated[str, Field(pattern=r"^(lateral|xray_\d+)$")])
SIZE = several("three whole numbers above 0 (voxels; d, h, w)", whole(1), 3)
LENGTHS = POSITIVE | several("three of them (mm; d, h, w)", POSITIVE, 3)

RULES: tuple[tuple[Rule, str], ...] = (
    (
        TRUTH,
        "anatomy averaged benchmark channels_last check checkpointing compile controls copies crop_to_body degrade"
        " deterministic dry_run encode_latents.bf16 film_augment graph lapped overwrite register_films"
        " extractors.random phantom.xray.lateral prune strict use_distributed_sampler use_patches xray_only",
    ),
    (TRUTH, "_partial_ _recursive_"),  # of what Hydra builds
    (one_of("none", "partial", "object", "all"), "_convert_"),
    (whole(0), "disc_start middle_blocks num_sanity_val_steps num_workers overhang prepare_workers warmup_steps"),
    (Rule("a whole number from 0 to 4294967295", Annotated[int, Field(ge=0, lt=2**32)]), "seed"),
    (
        whole(1),
        "batch_size common_grid crop diffusion_depth_size dim disc_channels epochs"
        " diffusion_img_size diffusion_num_channels disc_layers embedding_dim every groups init_patches layers"
        " lifted_channels lifter_stride log_every_n_steps n_codes n_hiddens num_res_blocks num_samples num_steps"
        " patch patches_per_volume patients perceptual_every phantom.num_cases size smallest statistics_patches steps"
        " tile timesteps val_every_n_epochs val_patches_per_volume width wrong_xrays xray_variants",
    ),
    (whole(2), "fsq_levels"),
    (NULL | whole(1), "checkpoint_every_n_steps effective_batch every_n_steps num_cases tiles_per_volume"),
    (one_of(-1) | whole(1), "max_epochs max_steps"),
    (one_of("auto") | whole(1), "decode_tile window_batch"),
    (one_of("auto") | TRUTH, "bf16"),
    (one_of("film") | TRUTH, "make_xray"),
    (one_of("warn") | TRUTH, "trainer.deterministic"),
    (
        several("a list of one or more whole numbers from 1", whole(1), least=1),
        "decoder_mults dim_mults encoder_mults lifter_widths",
    ),
    (several("a list of whole numbers from 0", whole(0)), "decoder_blocks encoder_blocks"),
    (NULL | several("a list of whole numbers from 0", whole(0)), "attention_levels"),
    (SIZE, "patch_size"),
    (NULL | SIZE, "shape stride"),
    (several("two shapes [d, h, w] in voxels", SIZE, 2), "shape_range"),
    (several("two voxel sizes [d, h, w] in mm", several("", POSITIVE, 3), 2), "spacing_range"),
    (number("a number"), "breath_mm guidance"),
    (
        POSITIVE,
        "checkpoint_every_minutes every_minutes dataset.xray_fov_mm initial_std magnification shift x0_limit"
        " training_shift",
    ),
    (NULL | number("a number"), "hu_offset"),
    (
        NULL | POSITIVE,
        "make_xray_source_mm pictures.every_minutes pictures_every_minutes snr_limit source_mm time_std xray.spacing"
        " xray_fov_mm",
    ),
    (
        NOT_NEGATIVE,
        "commitment feature_weight gan_weight gradient_clip gradient_weight l1_weight l2_weight latent_noise lr"
        " patient_mm perceptual_weight rotation_deg shift_mm train_lr weight weight_decay",
    ),
    (SHARE, "embolism_share final foreground_share lr_final noise_limit"),
    (PART, "condition_dropout decay ema_decay view_dropout"),
    (several("two numbers from 0 to below 1", PART, 2), "adam_betas betas"),
    (ordered(several("two numbers [lowest, highest] in HU, lowest < highest", number(""), 2), lt), "hu_window"),
    (ordered(several("two times, 0 <= low <= high <= 1", SHARE, 2), le), "guidance_interval"),
    (Rule("shares from 0 to 1 by name", dict[str, SHARE.kind]), "dataset.split"),  # type: ignore[name-defined]
    (NULL | LENGTHS, "spacing"),
    (NULL | one_of("median") | LENGTHS, "dataset.spacing"),
    (several("a list of pooled, tokens or lifted", one_of("pooled", "tokens", "lifted")), "cond"),
    (several("a list of lateral, xray_2, xray_3, ...", VIEW), "model.views denoiser.views"),
    (one_of("auto", "never"), "resume"),
    (one_of("random", "grid"), "patch_draw"),
    (one_of("auto", "always", "never"), "dataset.latents"),
    (one_of("float16", "int8"), "latent_dtype"),
    (one_of("xrays", "windows"), "distribute"),
    (one_of("ddim", "ddpm", "dpmpp_2m", "heun", "mean"), "sampler"),
    (one_of("auto", "whole", "fused", "independent"), "mode"),
    (one_of("auto", "cpu", "cuda"), "latent_device"),
    (one_of("pa", "ap"), "view"),
    (one_of("own", "median"), "grid"),
    (one_of("refuse", "resample"), "irregular tilt"),
    (one_of("report", "refuse", "off"), "pair_check"),
    (one_of("noise", "x0", "v", "velocity"), "prediction"),
    (one_of("auto", 32, 16, "32-true", "bf16-mixed", "16-mixed"), "model.precision"),  # data and statistics are float32
    (
        TEXT,
        "accelerator checkpoint_dir ckpt device dir generated latents_dir licence name output real root run_dir split"
        " model.vqgan_ckpt xray_encoder.weights xray_pattern",
    ),
    (
        NULL | TEXT,
        "axes ct_pattern imagenet init_from masks medicalnet_10 medicalnet_50 metrics perceptual_ckpt radimagenet"
        " reference shard store variant vqgan_ckpt xray_weights",
    ),
    (NULL | whole(0) | TEXT, "series"),
    (NULL | whole(2), "dataset.folds"),
    (NULL | whole(0), "dataset.fold"),
    (TEXT, "target"),
    (TEXT | several("a list of texts", TEXT), "presets statistics_from subgroups xray"),
    (several("a list of texts", TEXT), "phantom.axes"),
    (NULL | TEXT, "lateral"),
    (NULL | Rule("images or folders by lateral, xray_2, ...", dict[VIEW.kind, TEXT.kind]), "views"),  # type: ignore[name-defined]
    (GROUP, "dataset.phantom extractors phantom.xray"),
)
_BY_NAME = {name: rule for rule, names in RULES for name in names.split()}


def rule_of(key: str) -> Rule | None:
    """The rule of the longest end of `key` that has one."""
    names = key.split(".")
    return next((rule for i in range(len(names)) if (rule := _BY_NAME.get(".".join(names[i:])))), None)


def allows_text(key: str) -> bool:
    """Whether any text may be its value, as a path or a name; also where no rule is known."""
    return (rule_of(key) or FINITE).allows("any text")


def check(command: str, cfg: DictConfig) -> None:
    """UserError that lists every setting that is none, has no value, or has one that its rule does not allow.

    Args:
        command: the name of its config.
    """
    wrong, unresolved = [], []
    for key, written in settings(OmegaConf.to_container(cfg, resolve=False)):
        rule = rule_of(f"{command}.{key}")
        try:
            value = OmegaConf.select(cfg, key, throw_on_missing=True)
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except MissingMandatoryValue:
            wrong.append(f"{key} has no value; give one on the command line: {key}=...")
        except OmegaConfBaseException as error:
            unresolved.append(error)  # often, what it follows from is wrong
        else:
            if rule is None and command != "demo" and not _OF_A_PART.match(key) and "${" not in str(written):
                wrong.append(f"{key} is no setting, so it would change nothing; --cfg job lists those there are")
            rule, reference = rule or FINITE, _REFERENCE.fullmatch(str(written))
            said = reference and not (rule_of(f"{command}.{reference[1]}") or FINITE).allows(value)
            if not rule.allows(value) and not said:
                wrong.append(f"{key} must be {rule.says}, got {value!r}")
    if wrong:
        raise UserError("\n".join(wrong))
    if unresolved:
        raise UserError(str(unresolved[0].__cause__ or unresolved[0])) from unresolved[0]


def settings(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by their full keys; those of a group one by one, unless it has a rule of its own as well."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if not isinstance(value, dict) or rule_of(key) is not None:
            yield key, value
        if isinstance(value, dict) and rule_of(key) in (None, GROUP):
            yield from settings(value, f"{key}.")
