"""Images of other formats than JPEG: pixels as Pillow reads them, and what keeps a file from costing more."""

import contextlib
import importlib
import io
import struct
import time
import warnings
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pillow_heif
import pytest
from jpeg_contract.geometry import Geometry
from jpeg_contract.image_errors import ImageError
from jpeg_contract.parameters import SettingsError
from jpeg_contract.settings import ImageFormat, Limits, PreprocessSettings
from jpeg_preprocess import Preprocessor, unwrap
from jpeg_preprocess.formats.opening import OtherDecoders
from jpeg_preprocess.formats.signatures import image_format
from jpeg_serve.format_check import check_formats
from PIL import Image, ImageOps
from support import encode, noise, photo

FORMATS: tuple[ImageFormat, ...] = ("jpeg", "png", "webp", "gif", "tiff", "avif", "heic")
OTHERS = FORMATS[1:]
PLUGINS = {"heic": "HEIF"}
LOSSLESS = {"webp": {"lossless": True, "exact": True}}
GEOMETRY = Geometry(32, (24, 24))

pillow_heif.register_heif_opener()


def settings(**options):
    return PreprocessSettings(GEOMETRY, **{"formats": FORMATS, **options})


def saved(image, name, **options):
    stream = io.BytesIO()
    image.save(stream, PLUGINS.get(name, name.upper()), **{**LOSSLESS.get(name, {}), **options})
    return stream.getvalue()


def decoded(data, **options):
    decoders = OtherDecoders(settings(**options))
    name = decoders.format_of(data)
    assert name is not None
    return np.asarray(decoders.open(data, name).decode().image)


def reason(data, **options):
    with pytest.raises(ImageError) as caught:
        decoded(data, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 200
    assert "PIL" not in message
    return caught.value.reason


def pillows(data):
    """What Pillow alone makes of a file."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def picture():
    return Image.open(io.BytesIO(photo("china"))).convert("RGB").resize((150, 100))


def transparent():
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_the_pixels_are_those_of_pillow(name, mode):
    image = (transparent() if mode.endswith("A") else picture()).convert(mode)
    data = saved(image, name)
    assert image_format(data) == name
    np.testing.assert_array_equal(decoded(data), pillows(data))


@pytest.mark.parametrize(
    "options", [{}, *({"compression": each} for each in ("tiff_lzw", "tiff_adobe_deflate", "packbits"))]
)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_each_compression_of_a_tiff_keeps_the_pixels(mode, options):
    data = saved(picture().convert(mode), "tiff", **options)
    np.testing.assert_array_equal(decoded(data), pillows(data))


def test_fax_is_decoded():
    data = saved(picture().convert("1"), "tiff", compression="group4")
    np.testing.assert_array_equal(decoded(data), pillows(data))


@pytest.mark.parametrize(("compression", "named"), [("jpeg", "JPEG"), ("zstd", "zstd"), ("lzma", "LZMA")])
def test_a_compression_without_a_bound_is_named(compression, named):
    data = saved(picture(), "tiff", compression=compression)
    with pytest.raises(ImageError, match=f"compression is {named}") as caught:
        decoded(data)
    assert caught.value.reason == "unsupported"


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_white_are_refused(mode):
    assert reason(saved(picture().convert("L").convert(mode), "tiff")) == "unsupported"


@pytest.mark.parametrize("name", ["png", "tiff"])
def test_16_bits_of_gray_are_divided_by_256(name):
    values = np.arange(0, 65536, 8, np.uint16).reshape(64, 128)
    found = decoded(saved(Image.fromarray(values), name))
    np.testing.assert_array_equal(found, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("name", ["png", "webp", "tiff", "avif", "heic"])
def test_transparency_is_dropped_or_put_on_a_background(name):
    image = transparent()
    data = saved(image, name)
    np.testing.assert_array_equal(decoded(data), pillows(data))
    below = Image.new("RGB", image.size, (10, 200, 30))
    stored = Image.open(io.BytesIO(data)).convert("RGBA")
    below.paste(stored, mask=stored.getchannel("A"))
    np.testing.assert_array_equal(decoded(data, background=(10, 200, 30)), np.asarray(below))


def test_a_transparent_colour_of_a_palette_or_of_gray_shows_the_background():
    for image in (Image.new("P", (8, 8), 3), Image.new("L", (8, 8), 3)):
        if image.mode == "P":
            image.putpalette([each for value in range(256) for each in (value, value, value)])
        data = saved(image, "png", transparency=3)
        assert (decoded(data) == 3).all()
        assert (decoded(data, background=(9, 8, 7)) == (9, 8, 7)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["png", "webp", "tiff", "avif"])
def test_exif_orientation_turns_the_image_once(name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(picture(), name, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(decoded(data), np.asarray(upright))
    # AVIF's turn is a part of the picture, and not of its EXIF data.
    turned_anyway = (upright.height, upright.width, 3) if name == "avif" else (100, 150, 3)
    assert decoded(data, exif_orientation=False).shape == turned_anyway


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_turned_by_its_decoder(orientation):
    image = picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    data = saved(image, "heic")
    found = decoded(data)
    assert found.shape == ((150, 100, 3) if orientation > 4 else (100, 150, 3))
    np.testing.assert_array_equal(found, pillows(data))
    np.testing.assert_array_equal(found, decoded(data, exif_orientation=False))


@pytest.mark.parametrize("name", OTHERS)
def test_of_several_pictures_the_first_counts_and_the_others_cost_nothing(name):
    frames = [noise(40, 30, seed) for seed in range(12)]
    one, many = (saved(frames[0], name, save_all=True, append_images=frames[1:count]) for count in (1, 12))
    np.testing.assert_array_equal(decoded(many), pillows(many))
    if name in ("png", "webp", "gif", "tiff"):
        np.testing.assert_array_equal(decoded(many), decoded(one))
    decoders = OtherDecoders(settings())
    alone, animated = (decoders.open(data, name).cost for data in (one, many))
    assert animated.seconds - alone.seconds <= 100e-9 * (len(many) - len(one))


@pytest.mark.parametrize("name", OTHERS)
def test_a_truncated_file_is_refused_or_whole(name):
    data = saved(picture(), name)
    whole = decoded(data)
    signature = {"webp": 12, "avif": 16, "heic": 16}.get(name, 8)
    for cut in (*range(signature, 200, 7), *range(200, len(data), max(1, len(data) // 40)), len(data) - 1):
        try:
            found = decoded(data[:cut])
        except ImageError as error:
            assert error.reason in ("truncated", "corrupt", "unsupported"), cut
            assert cut < len(data) // 2 or error.reason == "truncated", cut
        else:
            np.testing.assert_array_equal(found, whole)
            assert cut >= len(data) - 300  # what stands behind the pixels


@pytest.mark.parametrize("name", OTHERS)
def test_each_format_has_the_limits_of_jpeg(name):
    data = saved(noise(400, 300), name)
    assert reason(data, limits=Limits(max_image_bytes=len(data) - 1)) == "too_many_bytes"
    assert reason(data, limits=Limits(max_pixels=400 * 300 - 1)) == "too_many_pixels"
    decoded(data, limits=Limits(max_pixels=400 * 300, max_image_bytes=len(data)))
    assert reason(data, limits=Limits(max_decode_ms=1)) == "too_much_work"
    assert reason(saved(noise(900, 700), name), limits=Limits(max_decode_mib=1)) == "too_much_memory"


def png(*chunks, header=(4, 4, 8, 0, 0, 0, 0), pixels=bytes(20)):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", *header)), *(chunk(*each) for each in chunks)]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")])


def cpu_seconds(data, expected=None, **options):
    begun = time.thread_time()
    if expected is None:
        decoded(data, **options)
    else:
        assert reason(data, **options) == expected
    return time.thread_time() - begun


def test_compressed_texts_and_profiles_of_a_png_are_not_expanded():
    bomb = zlib.compress(bytes(1_000_000), 9)
    chunks = [(b"iCCP", b"x\0\0" + bomb), (b"zTXt", b"x\0\0" + bomb), (b"iTXt", b"x\0\1\0\0\0" + bomb)] * 3000
    assert cpu_seconds(png(*chunks)) < 1


def test_a_png_of_many_chunks_is_refused():
    assert cpu_seconds(png(*[(b"tEXt", b"")] * 70_000), "too_much_work") < 2


def test_interlaced_and_deep_pngs_have_the_pixels_of_pillow():
    for depth, kind, samples in ((16, 2, 3), (16, 6, 4), (16, 4, 2), (2, 0, 1), (8, 6, 4)):
        rows = np.random.default_rng(0).integers(0, 256, (20, 1 + 30 * samples * depth // 8 + 1), np.uint8)
        rows[:, 0] = 0
        row = 1 + -(-30 * samples * depth // 8)
        data = png(header=(30, 20, depth, kind, 0, 0, 0), pixels=rows[:, :row].tobytes())
        np.testing.assert_array_equal(decoded(data), pillows(data))


def test_a_png_that_states_more_pixels_than_it_has_is_truncated():
    assert reason(png(header=(3000, 3000, 8, 0, 0, 0, 0))) == "truncated"
    with pytest.raises(ImageError, match="65500x65500"):
        decoded(png(header=(65500, 65500, 8, 0, 0, 0, 0)))


def gif(*blocks, screen=(4, 4), frame=(0, 0, 4, 4)):
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(6)
    return head + b"".join(blocks) + b"," + struct.pack("<HHHHB", *frame, 0) + b"\2\4\x84\x8f\x79\5\0;"


def test_comments_of_a_gif_cost_nothing_and_very_many_are_refused():
    comment = b"!\xfe" + (b"\xff" + bytes(255)) * 20_000 + b"\0"
    assert cpu_seconds(gif(comment)) < 1
    assert cpu_seconds(gif(b"!\xfe" + b"\1x" * 70_000 + b"\0"), "too_much_work") < 1


def test_a_frame_beyond_the_screen_of_a_gif_counts():
    assert reason(gif(frame=(0, 0, 60_000, 60_000))) == "too_many_pixels"
    assert reason(gif(frame=(65_000, 65_000, 4, 4))) == "too_many_pixels"


def tiff(tags, data=b"", order="<"):
    """A TIFF with one directory. tags: number to (kind, values), kind 3 or 4."""
    start = 8 + len(data)
    values_at = start + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, (kind, numbers) in sorted(tags.items()):
        content = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        place = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack(f"{order}I", values_at + len(values))
        values += content if len(content) > 4 else b""
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + values


GRAY = {256: (3, [4]), 257: (3, [4]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 277: (3, [1])}
STRIP = {273: (4, [8]), 278: (3, [4]), 279: (4, [16])}


@pytest.mark.parametrize("order", "<>")
def test_a_tiff_of_either_byte_order_is_decoded(order):
    data = tiff({**GRAY, **STRIP}, bytes(range(16)), order)
    np.testing.assert_array_equal(decoded(data)[..., 0], np.arange(16).reshape(4, 4))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({256: (4, [70_000]), 257: (4, [70_000])}, "too_many_pixels"),
        ({273: (4, [8] * 70_000), 279: (4, [1] * 70_000)}, "too_much_work"),
        ({273: (4, [4_000_000_000])}, "truncated"),
        ({322: (4, [60_000]), 323: (4, [60_000]), 324: (4, [8]), 325: (4, [16])}, "unsupported"),
        ({258: (3, [12])}, "unsupported"),
        ({258: (3, [32])}, "unsupported"),
        ({339: (3, [3])}, "unsupported"),
        ({259: (3, [6])}, "unsupported"),
        ({277: (3, [9])}, "unsupported"),
        ({262: (3, [8])}, "unsupported"),
        ({256: (3, [0])}, "corrupt"),
        ({273: (3, [8, 8])}, "corrupt"),
    ],
)
def test_a_tiff_that_would_cost_more_than_it_states_is_refused(tags, expected):
    assert cpu_seconds(tiff({**GRAY, **STRIP, **tags}, bytes(16)), expected) < 1


def test_directories_and_values_of_a_tiff_beside_the_picture_are_not_read():
    endless = tiff({**GRAY, **STRIP, 700: (4, [1] * 60_000), 34665: (4, [8])}, bytes(16))
    # Its next directory is itself.
    at = endless.index(struct.pack("<I", 0), 24 + 2 + 12 * (len(GRAY) + len(STRIP) + 2))
    looped = endless[:at] + struct.pack("<I", 24) + endless[at + 4 :]
    assert (decoded(looped) == 0).all()


def test_a_broken_tiff_writes_nothing_to_the_log_of_the_server(capfd):
    data = bytearray(saved(picture().convert("1"), "tiff", compression="group4"))
    data[40:900] = bytes(860)
    with contextlib.suppress(ImageError):  # libtiff goes on behind a broken row of a fax
        decoded(bytes(data))
    assert capfd.readouterr().err == ""


def test_a_big_tiff_is_named():
    with pytest.raises(ImageError, match="BigTIFF"):
        decoded(b"II+\0\x08\0\0\0" + bytes(100))


@pytest.mark.parametrize("name", ["avif", "heic"])
def test_the_size_in_the_bit_stream_counts_and_not_that_of_the_file(name):
    """A decoder reserves memory for the former."""
    data = saved(noise(512, 512), name)
    small = data.replace(b"ispe\0\0\0\0" + struct.pack(">II", 512, 512), b"ispe\0\0\0\0" + struct.pack(">II", 8, 8))
    assert small != data
    decoders = OtherDecoders(settings())
    # The pixels of the stream outweigh the few that it states.
    assert decoders.open(small, name).cost.seconds == pytest.approx(decoders.open(data, name).cost.seconds)
    assert reason(small, limits=Limits(max_decode_ms=5)) == "too_much_work"


@pytest.mark.parametrize("name", ["avif", "heic"])
def test_a_file_without_the_boxes_of_its_picture_is_refused(name):
    data = saved(noise(64, 64), name)
    at = data.index(b"iinf")
    assert reason(data[:at] + b"xxxx" + data[at + 4 :]) in ("corrupt", "unsupported")
    without = data.replace(b"meta", b"free", 1)
    assert reason(without) == "unsupported"


def test_damaged_files_are_decoded_or_refused_and_never_crash():
    random = np.random.default_rng(3)
    preprocess = Preprocessor(settings(threads=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in OTHERS:
            whole = saved(noise(24, 20), name)
            for _ in range(150):
                data = bytearray(whole)
                for place in random.integers(8, len(data), random.integers(1, 5)):
                    data[place] = random.integers(0, 256)
                _, (error,) = preprocess([bytes(data)])
                assert error is None or error.reason != "internal", (name, error)
    preprocess.close()


def test_a_format_that_is_not_listed_is_refused_as_before_and_the_message_says_how_to_list_it():
    preprocess = Preprocessor(PreprocessSettings(GEOMETRY, threads=1))
    _, errors = preprocess([saved(picture(), name) for name in OTHERS])
    preprocess.close()
    for name, error in zip(OTHERS, errors, strict=True):
        assert error is not None
        assert error.reason == "not_jpeg"
        assert str(error).startswith("not a JPEG: it does not begin with the bytes FF D8 FF, it looks like ")
        assert str(error).endswith(f"can list {name}")
    some = Preprocessor(settings(formats=("jpeg", "png"), threads=1))
    _, errors = some([saved(picture(), "png"), saved(picture(), "gif"), b"BM", encode(picture())])
    some.close()
    assert [error and error.reason for error in errors] == [None, "not_jpeg", "not_jpeg", None]
    assert "formats jpeg, png" in str(errors[2])


def test_a_jpeg_has_the_same_pixels_beside_other_formats():
    plain, all_formats = (Preprocessor(each) for each in (PreprocessSettings(GEOMETRY), settings()))
    images = [encode(picture()), photo("coffee"), encode(picture())[:500], b""]
    ours, theirs = all_formats(images), plain(images)
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert [error and error.reason for error in ours[1]] == [error and error.reason for error in theirs[1]]
    for preprocessor in (plain, all_formats):
        preprocessor.close()


@pytest.mark.parametrize("name", FORMATS)
def test_base64_of_each_listed_format_is_decoded(name):
    import base64

    data = encode(picture()) if name == "jpeg" else saved(picture(), name)
    for text in (base64.b64encode(data), base64.urlsafe_b64encode(data), b'"' + base64.encodebytes(data) + b'"'):
        assert unwrap(text, Limits(), FORMATS) == data
    assert unwrap(base64.b64encode(data), Limits(), ("jpeg",)) == (data if name == "jpeg" else base64.b64encode(data))


def test_without_the_package_heic_is_refused_with_the_remedy(monkeypatch):
    def missing(name, *arguments):
        if name in ("pi_heif", "pillow_heif"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *arguments)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(SettingsError, match=r"heic.*\[heic\]") as caught:
        Preprocessor(settings())
    assert caught.value.reason == "package_missing"


@pytest.mark.parametrize(("installed", "found"), [(set(), 1), ({"pi_heif"}, 0), ({"pillow_heif"}, 0)])
def test_the_check_of_a_repository_finds_the_missing_package(installed, found):
    machine: Any = SimpleNamespace(package=lambda name: "1" if name in installed else None)
    parameters = {"formats": "jpeg, heic"}
    model: Any = SimpleNamespace(
        is_preprocess=True, where="preprocess", parameter=lambda name: parameters.get(name, "")
    )
    problems = list(check_formats(model, machine))
    assert [problem.reason for problem in problems] == ["package_missing"] * found
    assert all("[heic]" in problem.message for problem in problems)
