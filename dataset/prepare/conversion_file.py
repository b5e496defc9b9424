"""STORE/conversion.json: what preparing changed of the cases in a store."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

from common.atomic import write_text
from common.errors import UserError
from common.json_file import read_json
from dataset.prepare.conversion import MEDIAN, MEDIAN_FILE, Conversion

CONVERSION_FILE = "conversion.json"
_SHAPING = ("spacing", "crop_to_body", "series", "irregular", "tilt", "hu_offset", "axes")
_REMEDY = "Remove it and run prepare_data.py again."
_log = logging.getLogger(__name__)


def write_conversion(store: Path, conversion: Conversion) -> None:
    write_text(store / CONVERSION_FILE, json.dumps(_plain(conversion)) + "\n")


def check_conversion(store: Path, wanted: Conversion) -> None:
    """ValueError if a prepared store has another spacing than was asked for, is not cropped or was read otherwise.

    What was not asked for (the default) is as the store has it. Says if X-rays were to be made otherwise.
    """
    found, asked = _stored(store), _plain(wanted)
    if asked["spacing"] == MEDIAN and (store / MEDIAN_FILE).is_file():
        asked["spacing"] = read_json(store / MEDIAN_FILE, _REMEDY)["spacing_mm"]
    for key in _SHAPING:
        if asked[key] not in (_AS_IT_IS[key], found[key]):
            raise UserError(
                f"dataset.{key}={json.dumps(asked[key])}, but {store} was prepared with {json.dumps(found[key])};"
                f" leave it out to use the store as it is, or run prepare_data.py with dataset.{key} and a"
                " dataset.store of its own"
            )
    made = ("make_xray", "xray_source_mm")
    if asked["make_xray"] and any(asked[key] != found[key] for key in made):
        _log.warning(
            "dataset.make_xray=%s, source %s mm, but %s was prepared with %s, source %s mm, and is used as it is;"
            " prepare_data.py brings it up to date",
            json.dumps(asked["make_xray"]),
            json.dumps(asked["xray_source_mm"]),
            store,
            json.dumps(found["make_xray"]),
            json.dumps(found["xray_source_mm"]),
        )


def warn_of_change(store: Path, wanted: Conversion) -> None:
    """Say that a store's cases will all be made anew, before the hours that it takes."""
    found, asked = _stored(store), _plain(wanted)
    changed = [f"{key} was {found[key]}, now {asked[key]}" for key in _SHAPING if found[key] != asked[key]]
    if changed and (store / CONVERSION_FILE).is_file():
        _log.warning("%s: %s; its cases are prepared anew", store, ", ".join(changed))


def _stored(store: Path) -> dict:
    path = store / CONVERSION_FILE
    return _AS_IT_IS | (read_json(path, _REMEDY) if path.is_file() else {})  # earlier versions read in one way


def _plain(conversion: Conversion) -> dict:
    """As JSON gives it back."""
    plain = json.loads(json.dumps(asdict(conversion)))
    return plain | plain.pop("reading")


_AS_IT_IS = _plain(Conversion())
