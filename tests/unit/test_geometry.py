import types

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
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
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


def padded(image, geometry):
    """The letterbox of Pillow alone: the whole image, resized, pasted on the colour."""
    new_size = geometry.resized_size(*image.size)
    resized = image.resize(new_size, Image.Resampling[geometry.interpolation.upper()])
    crop_height, crop_width = geometry.crop_size
    canvas = Image.new("RGB", (crop_width, crop_height), geometry.fill)
    left, top = geometry.crop_corner(*new_size)
    canvas.paste(resized, (-left, -top))
    return np.asarray(canvas).astype(int)


INTERPOLATIONS = st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
FILLS = st.tuples(*[st.integers(0, 255)] * 3)


@given(
    width=SIDES,
    height=SIDES,
    resize=st.integers(1, 64) | st.tuples(st.integers(1, 64), st.integers(1, 64)),
    crop=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    side=st.sampled_from(["shorter", "longer"]),
    interpolation=INTERPOLATIONS,
    fill=FILLS,
)
def test_a_letterbox_has_the_pixels_of_pillow(width, height, resize, crop, side, interpolation, fill):
    assume(side == "longer" or max(width, height) <= 50 * min(width, height))
    geometry = Geometry(resize, crop, interpolation, resize_side=side, fill=fill)
    image = noise(width, height)
    assert np.abs(resize_and_crop(geometry, image).astype(int) - padded(image, geometry)).max() <= 1


@given(width=st.integers(1, 99), height=st.integers(1, 99), crop=st.tuples(st.integers(1, 99), st.integers(1, 99)))
def test_a_crop_that_rounds_down_is_the_one_of_transformers(width, height, crop):
    """The whole image, cut and padded by transformers, shows where its crop lies."""
    backends = pytest.importorskip("transformers.image_processing_backends")
    torch = pytest.importorskip("torch")
    geometry = Geometry((height, width), crop, "nearest", fill=(0, 0, 0), crop_rounding="down")
    image = noise(width, height)
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    size = types.SimpleNamespace(height=crop[0], width=crop[1], keys=dict)
    theirs = backends.TorchvisionBackend.center_crop(None, tensor, size).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(resize_and_crop(geometry, image), theirs)


@given(width=SIDES, height=SIDES, box=st.tuples(st.integers(8, 64), st.integers(8, 64)))
def test_a_letterbox_of_the_longer_side_shows_the_whole_image(width, height, box):
    geometry = Geometry(box, box, resize_side="longer", fill=(0, 0, 0))
    new_size = geometry.resized_size(width, height)
    left, top, right, bottom = geometry.shown(*new_size)
    assert (left, top) == (0, 0)
    assert (right, bottom) == new_size
    assert right == box[1] or bottom == box[0]
    side = box[0]
    square = Geometry(side, (side, side), resize_side="longer", fill=(0, 0, 0))
    assert square.resized_size(width, height) == Geometry(
        (side, side), (side, side), resize_side="longer", fill=(0, 0, 0)
    ).resized_size(width, height)


@pytest.mark.parametrize("box", [(64, 64), (48, 96), (96, 48)])
@pytest.mark.parametrize("size", [(400, 300), (300, 400), (128, 128), (640, 200)])
def test_a_letterbox_is_the_one_of_timm(size, box):
    """`crop_mode = "border"` of timm resizes the longer side, and pads; sizes that it rounds in the same way."""
    transforms = pytest.importorskip("timm.data.transforms")
    image = noise(*size)
    resized = transforms.ResizeKeepRatio(box, longest=1.0, interpolation="bicubic")(image)
    theirs = np.asarray(transforms.CenterCropOrPad(box, fill=(9, 8, 7))(resized)).astype(int)
    ours = resize_and_crop(Geometry(box, box, "bicubic", resize_side="longer", fill=(9, 8, 7)), image)
    assert np.abs(ours - theirs).max() <= 1


@given(side=st.integers(8, 200))
def test_without_antialias_a_letterbox_pads_the_plain_bilinear(side):
    plain = Geometry(24, (24, 24), antialias=False)
    wide = Geometry(24, (30, 40), antialias=False, fill=(1, 2, 3))
    image = noise(side, side)
    ours = resize_and_crop(wide, image)
    assert np.abs(ours[3:27, 8:32].astype(int) - resize_and_crop(plain, image)).max() <= 1
    assert (ours[:3] == (1, 2, 3)).all()


@given(width=st.integers(8, 200), height=st.integers(8, 200))
def test_without_antialias_the_pixels_are_pytorchs_plain_bilinear(width, height):
    import torch
    from torchvision.transforms import functional as F  # noqa: N812

    image = noise(width, height)
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    theirs = F.center_crop(F.resize(tensor, [32], antialias=False), [24, 24]).permute(1, 2, 0).numpy()
    ours = resize_and_crop(Geometry(32, (24, 24), antialias=False), image).astype(int)
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
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
    letterbox = Geometry(256, (300, 300), interpolation, fill=(1, 2, 3))
    assert resize_and_crop(letterbox, image).shape == (300, 300, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"resize_size": 200, "crop_size": (224, 224)}, "crop_size"),
        ({"resize_size": (256, 100), "crop_size": (224, 224)}, "crop_size"),
        ({"resize_size": 0, "crop_size": (0, 0)}, "at least 1"),
        ({"resize_size": 256, "crop_size": (224, 224), "interpolation": "cubic"}, "bicubic"),
        ({"resize_size": 256, "crop_size": (224, 224), "interpolation": "bicubic", "antialias": False}, "antialias"),
        ({"resize_size": 224, "crop_size": (224, 224), "resize_side": "longer"}, "fill"),
        ({"resize_size": 224, "crop_size": (224, 224), "resize_side": "both", "fill": (0, 0, 0)}, "shorter, longer"),
        ({"resize_size": 224, "crop_size": (224, 224), "crop_rounding": "up"}, "even, down"),
        ({"resize_size": 224, "crop_size": (224, 224), "fill": (0, 0, 256)}, "0 to 255"),
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
