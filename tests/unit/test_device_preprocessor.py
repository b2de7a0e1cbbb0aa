"""The choice of the decoder, and the errors where it is not available; tests/gpu has the decoder itself."""

import importlib

import pytest
from jpeg_contract.geometry import Geometry
from jpeg_contract.parameters import SettingsError
from jpeg_contract.settings import PreprocessSettings
from jpeg_preprocess import Preprocessor, open_preprocessor


def settings(**geometry):
    return PreprocessSettings(Geometry(256, (224, 224), **geometry), decoder="gpu", threads=1)


@pytest.mark.parametrize("decoder", ["scaled", "full"])
def test_the_other_decoders_need_no_gpu(decoder):
    preprocessor = open_preprocessor(PreprocessSettings(Geometry(256, (224, 224)), decoder=decoder, threads=1))
    assert isinstance(preprocessor, Preprocessor)
    preprocessor.close()


def test_the_decoder_survives_as_a_parameter():
    assert PreprocessSettings.from_parameters(settings().to_parameters()) == settings()


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    def missing(name, *arguments):
        if name in ("cupy", "nvidia.nvimgcodec"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *arguments)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(SettingsError, match=r"decoder gpu: .*cupy.*gpu-decode.*scaled") as caught:
        open_preprocessor(settings())
    assert caught.value.reason == "package_missing"


@pytest.mark.parametrize("geometry", [{"interpolation": "nearest"}, {"interpolation": "box"}, {"antialias": False}])
def test_a_geometry_that_the_kernel_does_not_compute_is_refused(geometry):
    with pytest.raises(SettingsError, match="bilinear, bicubic, hamming and lanczos") as caught:
        open_preprocessor(settings(**geometry))
    assert caught.value.reason == "invalid_setting"
