import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_contract.geometry import Geometry
from jpeg_contract.parameters import SettingsError
from jpeg_contract.settings import Limits, PostprocessSettings, PreprocessSettings

SIZES = st.integers(1, 999)
GEOMETRY = {"resize_size": "256", "crop_size": "224,224"}


@given(
    crop=st.tuples(SIZES, SIZES),
    more=st.integers(0, 99),
    pair=st.booleans(),
    antialias=st.booleans(),
    exif=st.booleans(),
    formats=st.lists(st.sampled_from(["png", "webp", "gif", "tiff", "avif", "heic"]), unique=True),
    colour=st.none() | st.tuples(*[st.integers(0, 255)] * 3),
    rounding=st.sampled_from(["even", "down"]),
    decoder=st.sampled_from(["scaled", "full", "gpu"]),
    limit=st.integers(1, 10**9),
    threads=st.integers(0, 64),
)
def test_preprocess_settings_survive_as_parameters(
    crop, more, pair, antialias, exif, formats, colour, rounding, decoder, limit, threads
):
    settings = PreprocessSettings(
        Geometry(
            resize_size=(crop[0] + more, crop[1]) if pair else max(crop) + more,
            crop_size=crop,
            antialias=antialias,
            fill=colour,
            crop_rounding=rounding,
        ),
        recipe="r",
        recipe_sha256="s",
        exif_orientation=exif,
        formats=("jpeg", *formats),
        background=colour,
        decoder=decoder,
        limits=Limits(limit, limit, limit),
        threads=threads,
    )
    assert PreprocessSettings.from_parameters(settings.to_parameters()) == settings


def test_postprocess_settings_survive_as_parameters():
    settings = PostprocessSettings("r", "s", "l.txt", 3)
    assert PostprocessSettings.from_parameters(settings.to_parameters()) == settings


def test_settings_are_read_from_the_config_that_triton_hands_over():
    def config(parameters):
        return json.dumps({"parameters": {name: {"string_value": text} for name, text in parameters.items()}})

    preprocess = PreprocessSettings(Geometry(256, (224, 200)), recipe="r", threads=2)
    assert PreprocessSettings.from_config(config(preprocess.to_parameters())) == preprocess
    assert PostprocessSettings.from_config(config({"default_k": "3"})) == PostprocessSettings(default_k=3)


@pytest.mark.parametrize(
    ("change", "expected", "reason"),
    [
        ({"crop_size": "224"}, "parameter crop_size is '224': .*HEIGHT,WIDTH", "invalid_setting"),
        ({"resize_size": "large"}, "resize_size is 'large': .*HEIGHT,WIDTH", "invalid_setting"),
        ({"formats": "jpeg,bmp"}, "names of image formats", "invalid_setting"),
        ({"formats": "png"}, "formats must list jpeg", "invalid_setting"),
        ({"background": "0,0,256"}, "background must be three numbers", "invalid_setting"),
        ({"fill": "0,0,256"}, "fill must be three numbers", "invalid_geometry"),
        ({"resize_side": "longer"}, "fill", "invalid_geometry"),
        ({"crop_rounding": "up"}, "down, even", "invalid_setting"),
        ({"decoder": "quick"}, "parameter decoder is 'quick': .*full, gpu, scaled", "invalid_setting"),
        ({"antialias": "yes"}, "true or false", "invalid_setting"),
        ({"max_pixels": "50e6"}, "max_pixels is '50e6': .*an integer", "invalid_setting"),
        ({"max_pixels": "0"}, "at least 1", "invalid_setting"),
        ({"max_scans": "0"}, "at least 1", "invalid_setting"),
        ({"threads": "-1"}, "at least 0", "invalid_setting"),
        ({"interpolation": "cubic"}, "bicubic", "invalid_setting"),
        ({"treads": "3"}, "parameter treads is unknown; .*threads", "unknown_parameter"),
        ({"resize_size": "200"}, "parameter crop_size", "invalid_geometry"),
        ({"interpolation": "bicubic", "antialias": "false"}, "parameter antialias", "invalid_geometry"),
    ],
)
def test_an_invalid_parameter_is_named(change, expected, reason):
    with pytest.raises(SettingsError, match=expected) as caught:
        PreprocessSettings.from_parameters({**GEOMETRY, **change})
    assert caught.value.reason == reason


def test_a_missing_geometry_names_the_remedy():
    with pytest.raises(SettingsError, match="crop_size is missing: build the model again") as caught:
        PreprocessSettings.from_parameters({"resize_size": "256"})
    assert caught.value.reason == "missing_parameter"


def test_parameters_of_triton_itself_are_left_alone():
    parameters = {**GEOMETRY, "EXECUTION_ENV_PATH": "x"}
    assert PreprocessSettings.from_parameters(parameters).geometry == Geometry(256, (224, 224))


def test_default_k_must_be_positive():
    with pytest.raises(SettingsError, match="default_k"):
        PostprocessSettings.from_parameters({"default_k": "0"})


@pytest.mark.parametrize("limits", [{"max_pixels": 0}, {"max_image_bytes": 0}, {"max_scans": 0}])
def test_limits_must_be_positive(limits):
    with pytest.raises(ValueError, match="must be at least 1"):
        Limits(**limits)


def test_settings_that_came_later_leave_the_digests_in_older_reports():
    """Another digest makes `jpeg-serve` refuse what was built before."""
    settings = PreprocessSettings(Geometry(256, (224, 224)))
    assert settings.pixels_sha256.startswith("657c49d96126d307")
    down = PreprocessSettings(Geometry(256, (224, 224), crop_rounding="down"))
    assert down.pixels_sha256 != settings.pixels_sha256
