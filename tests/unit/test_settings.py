import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_preprocess import (
    Geometry,
    Limits,
    PostprocessSettings,
    PreprocessSettings,
    SettingsError,
    read_parameters,
)

SIZES = st.integers(1, 999)


@given(
    crop=st.tuples(SIZES, SIZES),
    more=st.integers(0, 99),
    pair=st.booleans(),
    antialias=st.booleans(),
    exif=st.booleans(),
    decoder=st.sampled_from(["scaled", "full"]),
    limit=st.integers(1, 10**9),
    threads=st.integers(0, 64),
)
def test_settings_survive_the_way_through_a_config(crop, more, pair, antialias, exif, decoder, limit, threads):
    settings = PreprocessSettings(
        Geometry((crop[0] + more, crop[1]) if pair else max(crop) + more, crop, antialias=antialias),
        recipe="r",
        recipe_sha256="s",
        exif_orientation=exif,
        decoder=decoder,
        limits=Limits(limit, limit, limit),
        threads=threads,
    )
    assert PreprocessSettings.from_parameters(settings.to_parameters()) == settings


def test_postprocess_settings_survive_too():
    settings = PostprocessSettings("r", "s", "l.txt", 3)
    assert PostprocessSettings.from_parameters(settings.to_parameters()) == settings


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"crop_size": "224"}, "parameter crop_size is '224': it must be HEIGHT,WIDTH"),
        ({"decoder": "quick"}, "parameter decoder is 'quick': it must be one of scaled, full, gpu"),
        ({"antialias": "yes"}, "true or false"),
        ({"max_pixels": "50e6"}, "max_pixels is '50e6': it must be a whole number"),
        ({"max_pixels": "0"}, "at least 1"),
        ({"interpolation": "cubic"}, "bicubic"),
        ({"treads": "3"}, "parameter treads is unknown; did you mean threads"),
    ],
)
def test_what_cannot_be_used_is_named(change, said):
    parameters = {"resize_size": "256", "crop_size": "224,224", **change}
    with pytest.raises(SettingsError, match=said):
        PreprocessSettings.from_parameters(parameters)


def test_a_missing_geometry_names_the_remedy():
    with pytest.raises(SettingsError, match="crop_size is missing: build the model again"):
        PreprocessSettings.from_parameters({"resize_size": "256"})


def test_tritons_own_parameters_are_not_ours():
    parameters = {"resize_size": "256", "crop_size": "224,224", "EXECUTION_ENV_PATH": "x"}
    assert PreprocessSettings.from_parameters(parameters).geometry == Geometry(256, (224, 224))


def test_default_k_must_be_positive():
    with pytest.raises(SettingsError, match="default_k"):
        PostprocessSettings.from_parameters({"default_k": "0"})


def test_parameters_are_read_from_tritons_json():
    text = json.dumps({"name": "m", "parameters": {"a": {"string_value": "1"}}})
    assert read_parameters(text) == {"a": "1"}
    assert read_parameters("{}") == {}
