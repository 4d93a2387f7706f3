"""Where and how the class label enters the network: the table of variants, and fusions built from their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from cpcnn_core.fusion.base import (
    WITH_CHANNELS,
    Conditioning,
    Fusion,
    FusionError,
    FusionOptions,
    Modulation,
    Site,
    SiteKind,
)
from cpcnn_core.fusion.block_concat import BlockConcat
from cpcnn_core.fusion.block_film import BlockFilm
from cpcnn_core.fusion.block_mild import BlockMild
from cpcnn_core.fusion.block_strong import BlockStrong
from cpcnn_core.fusion.block_three_bias import BlockThreeBias
from cpcnn_core.fusion.bottleneck_add import BottleneckAdd
from cpcnn_core.fusion.bottleneck_film import BottleneckFilm
from cpcnn_core.fusion.bottleneck_map import BottleneckMap
from cpcnn_core.fusion.compose import Composition
from cpcnn_core.fusion.head_add import HeadAdd
from cpcnn_core.fusion.input_add import InputAdd
from cpcnn_core.fusion.input_concat import InputConcat
from cpcnn_core.fusion.input_map import InputMap
from cpcnn_core.fusion.none import NoFusion
from cpcnn_core.fusion.skip_add import SkipAdd
from cpcnn_core.fusion.stem_add import StemAdd
from cpcnn_core.fusion.stem_concat import StemConcat
from cpcnn_core.suggest import nearest

__all__ = [
    "FUSIONS",
    "Composition",
    "Conditioning",
    "Fusion",
    "FusionError",
    "FusionOptions",
    "Modulation",
    "Site",
    "SiteKind",
    "build",
    "options_of",
    "parse_name",
]

FUSIONS: dict[str, type[Fusion]] = {
    "none": NoFusion,
    "input_add": InputAdd,
    "input_map": InputMap,
    "input_concat": InputConcat,
    "stem_add": StemAdd,
    "stem_concat": StemConcat,
    "block_mild": BlockMild,
    "block_strong": BlockStrong,
    "block_three_bias": BlockThreeBias,
    "block_film": BlockFilm,
    "block_concat": BlockConcat,
    "skip_add": SkipAdd,
    "bottleneck_add": BottleneckAdd,
    "bottleneck_map": BottleneckMap,
    "bottleneck_film": BottleneckFilm,
    "head_add": HeadAdd,
}


def parse_name(name: str) -> tuple[str, ...]:
    """`a+b` -> (a, b). Raise FusionError for an unknown part, a part named twice, or `none` beside another."""
    parts = tuple(part.strip() for part in name.split("+"))
    for part in parts:
        if part not in FUSIONS:
            raise FusionError(f"model.fusion: {part!r} is no fusion{nearest(part, FUSIONS)}")
    if len(set(parts)) < len(parts):
        raise FusionError(f"model.fusion: {name!r} names a variant twice; name each once")
    if "none" in parts and len(parts) > 1:
        raise FusionError(f"model.fusion: {name!r} composes `none` with others; drop it")
    return parts


def options_of(name: str, given: Mapping[str, Mapping[str, Any]]) -> dict[str, FusionOptions]:
    """The validated options of each part of `name`. Raise FusionError naming the option and what there is instead."""
    parts = parse_name(name)
    for variant in given:
        if variant not in parts:
            raise FusionError(
                f"model.fusion_options.{variant}: the fusion {name!r} has no part {variant!r}; "
                "drop the option or change model.fusion"
            )
    return {part: _validate(part, given.get(part, {})) for part in parts}


def _validate(variant: str, given: Mapping[str, Any]) -> FusionOptions:
    options = FUSIONS[variant].Options
    for option, value in given.items():
        if option not in options.model_fields:
            there_is = nearest(option, options.model_fields) if options.model_fields else "; it has no options"
            raise FusionError(f"model.fusion_options.{variant}.{option}: {value!r} given, but no such option{there_is}")
    try:
        return options.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise FusionError(
            f"model.fusion_options.{variant}.{field}: {first['input']!r} is not allowed: {first['msg'].lower()}"
        ) from None


def build(name: str, given: Mapping[str, Mapping[str, Any]], sites: tuple[Site, ...], label_dim: int) -> Composition:
    """The fusion called `name` for a network with these sites and an encoding of `label_dim` numbers.

    Raise FusionError where a variant wants extra channels at a site that cannot have any.
    """
    options = options_of(name, given)
    composition = Composition({part: FUSIONS[part](sites, label_dim, options[part]) for part in options})
    for site in sites:
        if site.kind not in WITH_CHANNELS and composition.extra_channels(site):
            raise FusionError(
                f"model.fusion: {name!r} puts extra channels at {site.name}, where no convolution would read them; "
                f"they can stand at {', '.join(sorted(WITH_CHANNELS))}"
            )
    return composition
