import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jpeg_contract.geometry import Geometry
from jpeg_preprocess import resize_and_crop
from PIL import Image
from support import PHOTOS, noise, reference_pixels

SIDES = st.integers(1, 400)


@pytest.mark.parametrize("path", sorted(PHOTOS.rglob("*.jpg")), ids=lambda path: path.stem)
def test_photos_have_the_pixels_of_torchvisions_transform(path):
    image = Image.open(path).convert("RGB")
    ours = resize_and_crop(Geometry(256, (224, 224)), image).astype(int)
    assert np.abs(ours - reference_pixels(image)).max() <= 1


@given(
    width=SIDES,
    height=SIDES,
    resize=st.integers(1, 64),
    crop=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    seed=st.integers(0, 3),
)
def test_images_of_any_size_have_the_pixels_of_torchvisions_transform(width, height, resize, crop, interpolation, seed):
    assume(max(crop) <= resize)
    assume(max(width, height) <= 50 * min(width, height))  # torchvision's own resize would be huge
    image = noise(width, height, seed)
    ours = resize_and_crop(Geometry(resize, crop, interpolation), image).astype(int)
    assert ours.shape == (*crop, 3)
    assert np.abs(ours - reference_pixels(image, resize, crop, interpolation)).max() <= 1


@given(width=SIDES, height=SIDES, resize=st.tuples(st.integers(8, 64), st.integers(8, 64)))
def test_a_pair_resizes_without_keeping_the_ratio(width, height, resize):
    image = noise(width, height)
    ours = resize_and_crop(Geometry(resize, (8, 8)), image).astype(int)
    assert np.abs(ours - reference_pixels(image, resize, (8, 8))).max() <= 1


@given(width=st.integers(8, 200), height=st.integers(8, 200))
def test_without_antialias_the_pixels_are_pytorchs_plain_bilinear(width, height):
    import torch
    from torchvision.transforms import functional as F  # noqa: N812

    image = noise(width, height)
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    theirs = F.center_crop(F.resize(tensor, [32], antialias=False), [24, 24]).permute(1, 2, 0).numpy()
    ours = resize_and_crop(Geometry(32, (24, 24), antialias=False), image).astype(int)
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_a_thin_image_does_not_become_a_huge_one(interpolation):
    import resource

    image = noise(1, 65500)  # its shorter side enlarged to 256, it would have 4 billion pixels
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels = resize_and_crop(Geometry(256, (224, 224), interpolation), image)
    assert pixels.shape == (224, 224, 3)
    # The crop shows less than one pixel, between the two in the middle.
    if interpolation in ("nearest", "bilinear"):
        middle = np.asarray(image)[32749:32751, 0]
        assert (pixels >= middle.min(axis=0)).all()
        assert (pixels <= middle.max(axis=0)).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"resize_size": 200, "crop_size": (224, 224)}, "crop_size"),
        ({"resize_size": (256, 100), "crop_size": (224, 224)}, "crop_size"),
        ({"resize_size": 0, "crop_size": (0, 0)}, "at least 1"),
        ({"resize_size": 256, "crop_size": (224, 224), "interpolation": "cubic"}, "bicubic"),
        ({"resize_size": 256, "crop_size": (224, 224), "interpolation": "bicubic", "antialias": False}, "antialias"),
    ],
)
def test_values_that_do_not_go_together_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        Geometry(**arguments)


@given(width=SIDES, height=SIDES, resize=st.integers(24, 64))
def test_sampling_maps_the_crop_into_the_image(width, height, resize):
    geometry = Geometry(resize, (24, 20))
    left, top, scale_x, scale_y = geometry.sampling(width, height)
    assert left >= -1e-9
    assert top >= -1e-9
    assert left + 20 * scale_x <= width + 1e-6
    assert top + 24 * scale_y <= height + 1e-6
