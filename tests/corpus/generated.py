"""Odd and broken JPEGs, made in memory, always the same, each with what is expected of the decoder."""

from __future__ import annotations

import base64
import functools
import gzip
import io
import itertools
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jpeg_contract.image_errors import Reason
from PIL import Image
from support import encode

from corpus.encoders import EOI, SOI, Component, encode_dct, encode_lossless, segment, subsampled
from corpus.surgery import (
    DHT,
    DQT,
    SOS,
    all_parts,
    between_parts,
    find,
    header_parts,
    insert,
    patched,
    with_frame,
    with_segment,
    without,
)

Expected = Literal["same", "decodes", "either"] | frozenset[Reason]

TRUNCATED: frozenset[Reason] = frozenset({"truncated"})
CORRUPT: frozenset[Reason] = frozenset({"corrupt"})
UNSUPPORTED: frozenset[Reason] = frozenset({"unsupported"})
NOT_JPEG: frozenset[Reason] = frozenset({"not_jpeg"})
BROKEN: frozenset[Reason] = frozenset({"truncated", "corrupt", "unsupported"})
ALL: frozenset[Reason] = frozenset(get_args(Reason))

WIDTH, HEIGHT = 96, 64
APP0, APP1, APP2, APP13, APP14, COMMENT = 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE
EXIF_INTRODUCTION = b"Exif\0\0"


@dataclass(frozen=True)
class Case:
    """One file.

    Attributes:
        name: Words, with dashes.
        data: The bytes.
        expected: "same": it decodes to the pixels of `reference`. "decodes": to those that Pillow decodes it to.
            "either": it decodes or is refused as broken. Otherwise it is refused, for one of these reasons; if there is
            a reference, it may also decode to those pixels.
        reference: A JPEG of the same pixels, without what is odd.
        hint: What the message says, among other things.
    """

    name: str
    data: bytes
    expected: Expected
    reference: bytes | None = None
    hint: str = ""


def same(name: str, data: bytes, reference: bytes) -> Case:
    """Return a case that decodes as its reference does."""
    return Case(name, data, "same", reference)


@functools.cache
def picture() -> Image.Image:
    """Return an RGB image of slopes, edges and some noise."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    slopes = np.stack([x * 255 / WIDTH, y * 255 / HEIGHT, 255 * ((x // 12 + y // 10) % 2)], axis=-1)
    noise = np.random.default_rng(5).integers(-25, 26, slopes.shape)
    return Image.fromarray(np.clip(slopes + noise, 0, 255).astype(np.uint8))


@functools.cache
def tiles() -> Image.Image:
    """Return an RGB image of one colour for each block of 8x8: turning it turns its decoded pixels exactly."""
    colours = np.random.default_rng(6).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(colours.repeat(8, axis=0).repeat(8, axis=1))


@functools.cache
def baseline() -> bytes:
    """Return the JPEG that most cases are made from: baseline, 4:2:0, JFIF."""
    return encode(picture(), quality=90)


@functools.cache
def progressive() -> bytes:
    """Return the same image, progressive."""
    return encode(picture(), quality=90, progressive=True)


@functools.cache
def cases() -> tuple[Case, ...]:
    """Return all cases; their names differ."""
    groups: tuple[Callable[[], Iterator[Case]], ...] = (
        orientations,
        odd_exif,
        colours,
        samplings,
        processes,
        sizes,
        containers,
        junk,
        applications,
        truncated,
        lying_headers,
        wrong_tables,
        other_formats,
        wrapped,
    )
    found = tuple(itertools.chain.from_iterable(group() for group in groups))
    assert len({case.name for case in found}) == len(found)
    return found


def exif_block(order: Literal["<", ">"], value: int, *, kind: int = 3, count: int = 1, first: int = 8) -> bytes:
    """Return EXIF data of one entry, the orientation, without "Exif"."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    content = struct.pack(f"{order}H", value) + b"\0\0" if kind == 3 else struct.pack(f"{order}I", value)
    entry = struct.pack(f"{order}HHI", 0x0112, kind, count) + content
    gap = b"\0" * (first - 8)
    return mark + struct.pack(f"{order}I", first) + gap + struct.pack(f"{order}H", 1) + entry + b"\0\0\0\0"


def with_exif(data: bytes, exif: bytes) -> bytes:
    """Insert an EXIF segment behind the first marker."""
    return with_segment(data, APP1, EXIF_INTRODUCTION + exif)


_BYTE_ORDERS: tuple[tuple[str, Literal["<", ">"]], ...] = (("little", "<"), ("big", ">"))
# What brings an image with this orientation upright, as EXIF 2.32 has it, 4.6.4 A.
_TURNS: dict[int, Callable[[Any], Any]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


def orientations() -> Iterator[Case]:
    """Yield each orientation, in both byte orders and in forms that writers use."""

    def tiled(pixels: Any) -> bytes:
        return encode(Image.fromarray(np.ascontiguousarray(pixels)), quality=100, subsampling=0)

    stored = np.asarray(tiles())
    plain = tiled(stored)
    for value, turn in _TURNS.items():
        upright = tiled(turn(stored))
        for name, order in _BYTE_ORDERS:
            yield same(f"orientation-{value}-{name}", with_exif(plain, exif_block(order, value)), upright)
        yield same(f"orientation-{value}-far", with_exif(plain, exif_block(">", value, first=4000)), upright)
        # Exif before JFIF is the order of many cameras; here Exif comes last of the header's segments.
        last = insert(plain, segment(APP1, EXIF_INTRODUCTION + exif_block("<", value)), at=find(plain, SOS).start)
        yield same(f"orientation-{value}-before-scan", last, upright)
        alone = with_exif(without(plain, APP0), exif_block("<", value))
        yield same(f"orientation-{value}-without-jfif", alone, upright)
    for value in (0, 9, 255, 65535):
        yield same(f"orientation-{value}-is-none", with_exif(plain, exif_block("<", value)), plain)


def odd_exif() -> Iterator[Case]:
    """Yield EXIF data that is broken or unusual."""
    data = baseline()
    good = exif_block("<", 6)
    for name, exif in {
        "empty": b"",
        "short": b"II",
        "without-directory": b"II*\0\x08\0\0\0",
        "directory-outside": b"II*\0\xff\xff\xff\x7f",
        "directory-cut": good[:14],
        "other-magic": b"II+\0" + good[4:],
        "other-order": b"XX*\0" + good[4:],
        "many-entries": good[:8] + b"\xff\xff" + good[10:],
        "loop": good[:-4] + b"\x08\0\0\0",
        "zeros": bytes(64),
        "text": b"no EXIF at all",
        "endless-count": exif_block("<", 6, count=0xFFFFFFFF),
        "ascii-orientation": exif_block("<", 6, kind=2),
        "float-orientation": exif_block("<", 6, kind=11),
        "rational-outside": exif_block("<", 6, kind=5),
    }.items():
        # These hold the orientation 6, which a decoder may find.
        is_readable = name in ("loop", "many-entries", "other-magic")
        yield Case(f"exif-{name}", with_exif(data, exif), "decodes" if is_readable else "same", data)
    yield Case("exif-long-orientation", with_exif(data, exif_block("<", 6, kind=4)), "decodes")
    twice = insert(data, *(segment(APP1, EXIF_INTRODUCTION + exif_block("<", value)) for value in (6, 3)))
    yield Case("exif-twice", twice, "decodes")
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    yield same("xmp-only", with_segment(data, APP1, xmp), data)
    yield same("xmp-broken", with_segment(data, APP1, xmp[:40] + b"\xff\xfe<<<"), data)
    yield same("app1-of-64-kb", with_segment(data, APP1, b"x" * 65533), data)


def planes_of(image: Image.Image, mode: str) -> list[np.ndarray[Any, Any]]:
    """Return the bands of an image in a mode."""
    return [np.asarray(band) for band in image.convert(mode).split()]


def components_of(planes: list[np.ndarray[Any, Any]], identifiers: bytes) -> list[Component]:
    """Return components of full size."""
    return [Component(plane, identifier=number) for plane, number in zip(planes, identifiers, strict=True)]


def adobe(transform: int) -> bytes:
    """Return Adobe's segment: transform 0 is RGB or CMYK, 1 YCbCr, 2 YCCK."""
    return segment(APP14, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))


def colours() -> Iterator[Case]:
    """Yield the colour spaces and the ways to state them."""
    yield Case("gray", encode(picture().convert("L")), "decodes")
    yield Case("gray-progressive", encode(picture().convert("L"), progressive=True), "decodes")
    gray = np.asarray(tiles().convert("L"))
    height, width = gray.shape
    one = encode_dct([Component(gray)], width=width, height=height)
    for factors in ((1, 2), (2, 1), (2, 2), (4, 4)):
        # The factors of an only component mean nothing; the order of its blocks does not depend on them.
        odd = with_frame(one, lambda header, factors=factors: header.__setitem__(11, factors[0] << 4 | factors[1]))  # type: ignore[misc]
        yield same(f"gray-with-factors-{factors[0]}x{factors[1]}", odd, one)
    rgb = encode(tiles(), keep_rgb=True, quality=100)
    yield Case("rgb-keep-rgb", rgb, "decodes")
    yield same("rgb-by-identifiers", without(rgb, APP14), rgb)
    of_tiles = planes_of(tiles(), "RGB")
    by_hand = encode_dct(components_of(of_tiles, b"RGB"), width=width, height=height)
    yield same(
        "rgb-by-adobe",
        insert(encode_dct(components_of(of_tiles, b"\1\2\3"), width=width, height=height), adobe(0)),
        by_hand,
    )
    yield Case("rgb-by-identifiers-with-jfif", with_segment(by_hand, APP0, b"JFIF\0\1\1\0\0\1\0\1\0\0"), "decodes")
    yield Case("ycc-by-adobe", insert(without(baseline(), APP0), adobe(1)), "same", baseline())
    yield same("ycc-by-nothing", without(baseline(), APP0), baseline())
    for identifiers in (b"\0\1\2", b"\1\x22\x11", b"YCc", b"\xfd\xfe\xff"):
        planes = planes_of(tiles(), "YCbCr")
        ycc = encode_dct(components_of(planes, identifiers), width=width, height=height)
        usual = encode_dct(components_of(planes, b"\1\2\3"), width=width, height=height)
        yield same(f"ycc-with-identifiers-{identifiers.hex()}", ycc, usual)
    yield from _four_components(width, height)


def _four_components(width: int, height: int) -> Iterator[Case]:
    yield Case("cmyk", encode(picture().convert("CMYK")), "decodes")
    yield Case("cmyk-progressive", encode(picture().convert("CMYK"), progressive=True), "decodes")
    cmyk = encode(tiles().convert("CMYK"))
    yield Case("cmyk-without-adobe", without(cmyk, APP14), "decodes")
    transform = find(cmyk, APP14).start + 15
    yield Case("cmyk-called-ycck", patched(cmyk, transform, b"\2"), "decodes")
    yield Case("cmyk-called-ycc", patched(cmyk, transform, b"\1"), "decodes")
    # Inverted, as Adobe stores them. Without a hue both have exact values.
    random = np.random.default_rng(7)
    ink, black = (random.integers(0, 256, (5, 7), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(2))
    middle = np.full_like(ink, 128)
    as_cmyk = encode_dct(components_of([ink, ink, ink, black], b"\1\2\3\4"), width=width, height=height, step=1)
    as_ycck = encode_dct(
        components_of([255 - ink, middle, middle, black], b"\1\2\3\4"), width=width, height=height, step=1
    )
    yield same("ycck", insert(as_ycck, adobe(2)), insert(as_cmyk, adobe(0)))
    halves = [(255 - ink, 2), (middle[::2, ::2], 1), (middle[::2, ::2], 1), (black, 2)]
    components = [Component(plane, factor, factor, number + 1) for number, (plane, factor) in enumerate(halves)]
    as_ycck420 = encode_dct(components, width=width, height=height, step=1)
    yield same("ycck-420", insert(as_ycck420, adobe(2)), insert(as_cmyk, adobe(0)))
    by_letters = encode_dct(components_of([ink, ink, ink, black], b"CMYK"), width=width, height=height, step=1)
    yield same("cmyk-by-letters", by_letters, as_cmyk)


def samplings() -> Iterator[Case]:
    """Yield the subsamplings."""
    for ratio in ("4:4:4", "4:2:2", "4:2:0"):
        odd = picture().crop((0, 0, 37, 29))
        name = ratio.replace(":", "")
        once, in_passes = (encode(odd, subsampling=ratio, progressive=passes) for passes in (False, True))
        yield Case(f"sampling-{name}", encode(picture(), subsampling=ratio), "decodes")
        yield Case(f"sampling-{name}-37x29", once, "decodes")
        yield same(f"sampling-{name}-37x29-progressive", in_passes, once)
    luma, blue, red = planes_of(picture().crop((0, 0, 61, 45)), "YCbCr")
    # Factors of luma, of blue and of red. The last ones are legal and nobody writes them.
    for factors in (
        ((1, 1), (1, 1), (1, 1)),
        ((1, 2), (1, 1), (1, 1)),
        ((4, 1), (1, 1), (1, 1)),
        ((1, 4), (1, 1), (1, 1)),
        ((4, 2), (1, 1), (1, 1)),
        ((2, 2), (2, 1), (2, 1)),
        ((2, 2), (1, 2), (1, 2)),
        ((2, 2), (2, 1), (1, 2)),
        ((2, 1), (1, 1), (2, 1)),
        ((1, 1), (2, 2), (2, 2)),
        ((2, 2), (2, 2), (2, 2)),
        ((2, 2), (1, 1), (2, 2)),
    ):
        most = [max(both[axis] for both in factors) for axis in (0, 1)]
        components = [
            Component(subsampled(plane, most[0] // across, most[1] // down), across, down, number)
            for number, (plane, (across, down)) in enumerate(zip((luma, blue, red), factors, strict=True), 1)
        ]
        name = "-".join(f"{across}x{down}" for across, down in factors)
        together = encode_dct(components, width=61, height=45)
        # 10 blocks are the most of one MCU.
        yield Case(f"factors-{name}", together, "decodes" if sum(x * y for x, y in factors) <= 10 else CORRUPT)
        if sum(x * y for x, y in factors) <= 10:
            apart = encode_dct(components, width=61, height=45, interleaved=False)
            yield same(f"factors-{name}-three-scans", apart, together)
    whole = [
        Component(plane[::step, ::step], 3 // step, 3 // step, number)
        for number, (plane, step) in enumerate(((luma, 1), (blue, 3), (red, 3)), 1)
    ]
    yield Case("factors-3x3-1x1-1x1", encode_dct(whole, width=61, height=45), BROKEN)
    fraction = [
        Component(plane[:45, : (61 * across + 2) // 3], across, 1, number)
        for number, (plane, across) in enumerate(((luma, 3), (blue, 2), (red, 2)), 1)
    ]
    yield Case("factors-3x1-2x1-2x1", encode_dct(fraction, width=61, height=45), "either")
    for value in (0x00, 0x01, 0x10, 0x50, 0x51, 0xFF):
        bad = with_frame(baseline(), lambda header, value=value: header.__setitem__(11, value))  # type: ignore[misc]
        yield Case(f"factors-invalid-{value:02x}", bad, BROKEN)


def processes() -> Iterator[Case]:
    """Yield the coding processes."""
    ways: dict[str, dict[str, Any]] = {
        "optimized": {"optimize": True},
        "progressive": {"progressive": True},
        "restart-rows": {"restart_marker_rows": 1},
        "restart-blocks": {"restart_marker_blocks": 1},
        "restart-progressive": {"restart_marker_blocks": 3, "progressive": True},
    }
    for name, options in ways.items():
        yield same(f"process-{name}", encode(picture(), quality=90, **options), baseline())
    yield same("process-extended", with_frame(baseline(), lambda header: header.__setitem__(1, 0xC1)), baseline())
    many = encode(picture(), quality=90, restart_marker_blocks=1)
    yield Case("restart-numbers-wrong", many.replace(b"\xff\xd3", b"\xff\xd5"), "either")
    yield Case("restart-missing", many.replace(b"\xff\xd3", b""), "either")
    yield same("restart-interval-0", insert(baseline(), segment(0xDD, b"\0\0")), baseline())
    luma, blue, red = planes_of(picture(), "YCbCr")
    components = components_of([luma, blue, red], b"\1\2\3")
    size: dict[str, Any] = {"width": WIDTH, "height": HEIGHT}
    eight = encode_dct(components, **size)
    apart = encode_dct(components, **size, interleaved=False)
    yield same("scans-of-one-component", apart, eight)
    cut = apart.rindex(b"\xff\xda")
    yield Case("scans-of-one-component-last-missing", apart[:cut] + EOI, "either")
    yield Case("scans-of-one-component-last-missing-without-end", apart[:cut], TRUNCATED)
    twelve = components_of([plane.astype(int) * 16 for plane in (luma, blue, red)], b"\1\2\3")
    hint = "12 bits"
    yield Case("bits-12-extended", encode_dct(twelve, **size, marker=0xC1, precision=12), UNSUPPORTED, hint=hint)
    yield Case(
        "bits-12-header", with_frame(baseline(), lambda header: header.__setitem__(4, 12)), UNSUPPORTED, hint=hint
    )
    for bits in (0, 1, 7, 9, 16, 255):
        lie = with_frame(baseline(), lambda header, bits=bits: header.__setitem__(4, bits))  # type: ignore[misc]
        yield Case(f"bits-{bits}-header", lie, UNSUPPORTED)
    # Some versions of libjpeg-turbo decode these, but at full size only.
    for name, mode, identifiers in (("gray", "L", b"\1"), ("rgb", "RGB", b"RGB")):
        of_tiles = components_of(planes_of(tiles(), mode), identifiers)
        reference = encode_dct(of_tiles, width=tiles().width, height=tiles().height, step=1)
        yield Case(f"lossless-{name}", encode_lossless(of_tiles), UNSUPPORTED, reference)
    # libjpeg-turbo takes these for RGB, which no standard says.
    yield Case("lossless-ycc", encode_lossless(components), "either")
    sixteen = [Component(luma.astype(int) * 16)]
    yield Case("lossless-12-bits", encode_lossless(sixteen, precision=12), UNSUPPORTED, hint=hint)
    for marker, kind in {
        0xC3: "lossless",
        0xC5: "differential-sequential",
        0xC6: "differential-progressive",
        0xC7: "differential-lossless",
        0xCB: "arithmetic-lossless",
        0xCD: "arithmetic-differential",
        0xCF: "arithmetic-differential-lossless",
    }.items():
        header = with_frame(baseline(), lambda header, marker=marker: header.__setitem__(1, marker))  # type: ignore[misc]
        yield Case(f"header-{kind}", header, UNSUPPORTED | CORRUPT)
    for marker, kind in {0xC9: "sequential", 0xCA: "progressive"}.items():
        # An arithmetic decoder takes any bytes.
        of = baseline() if marker == 0xC9 else progressive()
        header = with_frame(of, lambda header, marker=marker: header.__setitem__(1, marker))  # type: ignore[misc]
        yield Case(f"header-arithmetic-{kind}", header, "either")
    for count in (2, 5, 10):
        planes = components_of(([luma, blue, red] * 4)[:count], bytes(range(1, count + 1)))
        alone = encode_dct(planes, **size, interleaved=count < 5)
        yield Case(f"components-{count}", alone, UNSUPPORTED, hint=f"{count} components")
    lines = segment(0xDC, struct.pack(">H", HEIGHT))
    later = encode_dct(components, **size, stated_height=0, before_end=lines)
    yield Case("height-in-dnl", later, UNSUPPORTED, hint="height")
    yield same("height-in-header-and-dnl", encode_dct(components, **size, before_end=lines), eight)
    yield Case("height-0", with_frame(baseline(), lambda header: header.__setitem__(slice(5, 7), b"\0\0")), UNSUPPORTED)


def sizes() -> Iterator[Case]:
    """Yield extreme sizes."""
    for width, height in ((1, 1), (1, 17), (17, 1), (7, 7), (8, 8), (9, 9), (65500, 1), (1, 65500)):
        small = picture().resize((width, height))
        yield Case(f"size-{width}x{height}", encode(small), "decodes")
        yield Case(f"size-{width}x{height}-progressive", encode(small, progressive=True), "decodes")
        turned = with_exif(encode(small), exif_block("<", 6))
        yield Case(f"size-{width}x{height}-turned", turned, "decodes")


def trailers() -> dict[str, bytes]:
    """Return what programs write behind an image."""
    data = baseline()
    video = struct.pack(">I", 24) + b"ftypmp42\0\0\0\0isommp42" + struct.pack(">I", 8) + b"mdat" + bytes(range(256)) * 4
    entry = b"\0\0\x01\x0a\x0e\0\0\0Image_UTC_Data1700000000000"
    directory = b"SEFH" + struct.pack("<III", 107, 1, 0x0A010000) + struct.pack("<II", len(entry), len(entry))
    samsung = entry + directory + struct.pack("<I", len(directory)) + b"SEFT"
    return {
        "zeros": bytes(1000),
        "newline": b"\r\n",
        "text": b"Written by a program that adds its name behind the image, again and again. " * 20,
        "ones": b"\xff" * 100,
        "second-jpeg": encode(picture().resize((40, 30)), quality=40),
        "second-jpeg-progressive": encode(picture(), progressive=True),
        "itself": data,
        "motion-photo": video,
        "samsung": samsung,
        "samsung-motion-photo": b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data" + video + samsung,
        "huawei": b"\0" * 24 + b"edof" + bytes(range(200)),
        "markers": bytes(itertools.chain.from_iterable((0xFF, marker) for marker in range(256))),
        "scans": b"\xff\xda" * 1000,
        "random": np.random.default_rng(8).bytes(3000),
        "zip": b"PK\x03\x04" + np.random.default_rng(9).bytes(500) + b"PK\x05\x06" + bytes(18),
        "php": b"<?php echo 'no image'; ?>",
    }


def containers() -> Iterator[Case]:
    """Yield JPEGs with something behind them, with and without the end of the image between."""
    for kind, data in {"baseline": baseline(), "progressive": progressive()}.items():
        for name, trailer in trailers().items():
            yield same(f"behind-{kind}-{name}", data + trailer, data)
            yield same(f"behind-{kind}-{name}-without-end", data[:-2] + trailer, data)
        yield same(f"end-missing-{kind}", data[:-2], data)
        yield same(f"end-half-missing-{kind}", data[:-1], data)
        yield same(f"end-twice-{kind}", data + EOI, data)
        yield same(f"end-after-fill-{kind}", data[:-2] + b"\xff\xff\xff" + data[-2:], data)
        yield same(f"end-after-zeros-{kind}", data[:-2] + bytes(8) + data[-2:], data)
    mpo = io.BytesIO()
    second = picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture().save(mpo, "MPO", save_all=True, append_images=[second], quality=90)
    yield same("mpo", mpo.getvalue(), baseline())
    yield Case("mpo-cut-in-second", mpo.getvalue()[:-200], "same", baseline())
    gain = encode(picture().convert("L").resize((24, 16)), quality=70)
    index = b"MPF\0MM\0*\0\0\0\x08" + bytes(40)
    yield same("gain-map", with_segment(baseline(), APP2, index) + gain, baseline())
    yield same("gain-map-broken-index", with_segment(baseline(), APP2, b"MPF\0" + b"\xff" * 30) + gain, baseline())
    yield same("gain-map-empty-index", with_segment(baseline(), APP2, b"MPF\0") + gain, baseline())
    thumbnail = encode(picture().resize((32, 20)))
    inside = exif_block("<", 1) + thumbnail
    yield same("thumbnail-in-exif", with_exif(baseline(), inside), baseline())
    yield same("thumbnail-in-app2", with_segment(baseline(), APP2, b"FPXR\0" + thumbnail), baseline())
    yield same("comment", with_segment(baseline(), COMMENT, b"a comment \xff\xda\xff\xd9"), baseline())
    yield same("comment-empty", with_segment(baseline(), COMMENT, b""), baseline())
    yield same("comment-of-64-kb", with_segment(baseline(), COMMENT, b"\xff\xd9" * 32766), baseline())


def junk() -> Iterator[Case]:
    """Yield bytes that belong to nothing, before and inside of images."""
    for count in (1, 2, 4, 16, 63, 64, 65, 1000):
        hint = "a JPEG behind" if count < 65 else ""
        yield Case(f"before-{count}", b"\x01" * count + baseline(), NOT_JPEG, hint=hint)
    yield Case("before-newline", b"\n" + baseline(), NOT_JPEG, hint="behind 1 other")
    yield Case("before-byte-order-mark", b"\xef\xbb\xbf" + baseline(), NOT_JPEG, hint="behind 3 other")
    yield Case("start-missing", baseline()[2:], NOT_JPEG, hint="without its beginning")
    yield Case("start-twice", SOI + baseline(), "either")
    yield Case("empty-image-before", SOI + EOI + baseline(), BROKEN, baseline())
    tables = b"".join(find_bytes(baseline(), marker) for marker in (DQT, DHT))
    yield Case("tables-before", SOI + tables + EOI + baseline(), BROKEN, baseline())
    for name, data in {"baseline": baseline(), "progressive": progressive()}.items():
        for kind, between in {
            "fill": b"\xff",
            "more-fill": b"\xff" * 20,
            "zero": b"\0",
            "zeros": bytes(100),
            "text": b"junk",
            "stuffed": b"\xff\0",
            "restart": b"\xff\xd0",
        }.items():
            yield same(f"between-{name}-{kind}", between_parts(data, between), data)
        # A marker without a length, for arithmetic coding; Pillow does not know it.
        yield Case(f"between-{name}-tem", between_parts(data, b"\xff\x01"), BROKEN, data)
    first = baseline()
    yield same("fill-behind-start", insert(first, b"\xff" * 7), first)
    scan = find(first, SOS).end
    middle = scan + (len(first) - scan) // 2
    for name, at in {"begin": scan, "middle": middle}.items():
        for kind, inside in {
            "zeros": bytes(16),
            "comment": segment(COMMENT, b"inside of a scan"),
            "end": EOI,
            "start": SOI,
            "marker": b"\xff\xf0",
            "fill": b"\xff\xff\xff\0",
        }.items():
            yield Case(f"in-scan-{name}-{kind}", insert(first, inside, at=at), "either")
    for marker in (0xF0, 0xF7, 0xFD, 0xC8, 0xDC, 0xDE, 0xDF, 0x02, 0xBF):
        yield Case(f"unknown-marker-{marker:02x}", with_segment(first, marker, b"abcdef"), "either")


def applications() -> Iterator[Case]:
    """Yield empty, short and odd segments of applications; the image is the same whatever they hold."""
    data = baseline()
    introductions = {
        "jfif": (APP0, b"JFIF\0", b"\1\1\0\0\1\0\1\0\0"),
        "jfxx": (APP0, b"JFXX\0", b"\x10"),
        "avi1": (APP0, b"AVI1", bytes(10)),
        "exif": (APP1, EXIF_INTRODUCTION, exif_block("<", 1)),
        "icc": (APP2, b"ICC_PROFILE\0", b"\1\1" + bytes(128)),
        "mpf": (APP2, b"MPF\0", bytes(20)),
        "photoshop": (APP13, b"Photoshop 3.0\0", b"8BIM\x04\x04\0\0\0\0\0\x02ab"),
        "photoshop-old": (APP13, b"Adobe_Photoshop2.5:", b"8BIM\x03\xed\0\0\0\0\0\x10" + bytes(16)),
    }
    for name, (marker, introduction, rest) in introductions.items():
        whole = introduction + rest
        for length in sorted({*range(len(introduction) + 3), *range(0, len(whole) + 1, 7), len(whole)}):
            if length <= len(whole):
                yield same(f"app-{name}-{length}-bytes", with_segment(data, marker, whole[:length]), data)
        yield same(f"app-{name}-garbage", with_segment(data, marker, introduction + b"\xff" * 50), data)
    whole = b"Adobe" + bytes(6)
    for length in range(len(whole) + 1):
        yield same(f"app-adobe-{length}-bytes", with_segment(data, APP14, whole[:length]), data)
    yield same("app-adobe-other", with_segment(data, APP14, b"Ducky\0\1\0\4"), data)
    yield same("app-adobe-garbage", with_segment(data, APP14, b"\xff" * 30), data)
    # JFIF says YCbCr, and it is; Adobe's segment names a transform that no one defined.
    yield same("app-adobe-transform-9", insert(without(data, APP0), adobe(9)), data)
    for marker in range(0xE0, 0xF0):
        yield same(f"app-{marker - 0xE0}-empty", with_segment(data, marker, b""), data)
        yield same(f"app-{marker - 0xE0}-one-byte", with_segment(data, marker, b"\0"), data)
    for name, units in {"0": b"\0\0\0\0\0", "max": b"\xff\xff\xff\xff\xff", "cm": b"\2\0\1\0\1"}.items():
        odd = insert(without(data, APP0), segment(APP0, b"JFIF\0\1\1" + units + b"\0\0"))
        yield same(f"app-jfif-density-{name}", odd, data)
    thumbnail = segment(APP0, b"JFIF\0\1\1\0\0\1\0\1\xff\xff")
    yield same("app-jfif-thumbnail-missing", insert(without(data, APP0), thumbnail), data)
    yield same(
        "app-jfif-last", insert(without(data, APP0), find_bytes(data, APP0), at=find(data, SOS).start - 18), data
    )
    missing = with_segment(data, APP2, b"ICC_PROFILE\0\2\3" + bytes(128))
    yield same("app-icc-parts-missing", missing, data)
    turned = exif_block("<", 6)
    yield Case("app-jfif-short-exif-turned", insert(with_exif(data, turned), segment(APP0, b"JFIF\0")), "decodes")
    yield Case("app-icc-short-exif-turned", insert(with_exif(data, turned), segment(APP2, b"ICC_PROFILE\0")), "decodes")


def find_bytes(data: bytes, marker: int) -> bytes:
    """Return the first segment with this marker."""
    part = find(data, marker)
    return data[part.start : part.end]


def truncated() -> Iterator[Case]:
    """Yield images that end too early: at each boundary and inside each segment."""
    whole = {
        "baseline": with_exif(baseline(), exif_block("<", 1)),
        "progressive": progressive(),
        "gray": encode(picture().convert("L")),
        "restart": encode(picture(), restart_marker_rows=1),
    }
    for name, data in whole.items():
        for number, part in enumerate(all_parts(data)):
            length = part.end - part.start
            for where, at in {"start": 0, "marker": 1, "length": 2, "length-2": 3, "middle": length // 2}.items():
                reasons: frozenset[Reason] = NOT_JPEG if part.start + at < 3 else TRUNCATED
                yield Case(f"cut-{name}-{number}-{part.marker:02x}-{where}", data[: part.start + at], reasons)
            yield Case(f"cut-{name}-{number}-{part.marker:02x}-end", data[: part.end], TRUNCATED)
        for count in (3, 4, 10, 100, len(data) // 2):
            # The last bytes may be padding, or hold nothing that a smaller size needs.
            yield Case(f"cut-{name}-by-{count}", data[:-count], TRUNCATED, data if count < 10 else None)
        begin = find(data, SOS).end
        for tenth in range(1, 10):
            cut = data[: begin + (len(data) - begin) * tenth // 10]
            yield Case(f"cut-{name}-tenth-{tenth}", cut, TRUNCATED)
            yield Case(f"cut-{name}-tenth-{tenth}-ended", cut + EOI, "either")
            yield Case(f"cut-{name}-tenth-{tenth}-zeros", cut.ljust(len(data), b"\0"), "either")
    for length in (1, 2):
        yield Case(f"cut-to-{length}", baseline()[:length], NOT_JPEG)
    yield Case("cut-to-3", baseline()[:3], TRUNCATED)
    yield Case("start-and-end", SOI + EOI, NOT_JPEG | BROKEN)
    yield Case("header-and-end", baseline()[: find(baseline(), SOS).start] + EOI, BROKEN)


def lying_headers() -> Iterator[Case]:
    """Yield headers that contradict the data behind them."""
    data = baseline()

    def sized(width: int, height: int, of: bytes = data) -> bytes:
        stated = struct.pack(">HH", height, width)
        return with_frame(of, lambda header: header.__setitem__(slice(5, 9), stated))

    for name, of in {"baseline": data, "progressive": progressive()}.items():
        # Too few data for the size: a decoder cannot know that it is the header that is wrong.
        for width, height in ((WIDTH, HEIGHT * 2), (WIDTH * 2, HEIGHT), (WIDTH + 16, HEIGHT), (WIDTH * 4, HEIGHT * 4)):
            yield Case(f"size-{name}-said-{width}x{height}", sized(width, height, of), "either")
        for width, height in ((WIDTH, HEIGHT // 2), (WIDTH // 2, HEIGHT), (1, 1), (WIDTH, HEIGHT - 1)):
            yield Case(f"size-{name}-said-{width}x{height}", sized(width, height, of), "either")
    yield Case("size-said-65535x65535", sized(65535, 65535), frozenset({"too_many_pixels"}), hint="65535x65535")
    yield Case("size-said-65535x1", sized(65535, 1), BROKEN)
    yield Case("size-said-1x65535", sized(1, 65535), BROKEN)
    yield Case("size-said-7000x7000", sized(7000, 7000), "either")
    yield Case("size-said-0x64", sized(0, HEIGHT), BROKEN)
    yield Case("size-said-0x0", sized(0, 0), BROKEN)
    for number, part in enumerate(header_parts(data)):
        length = part.end - part.start - 2
        for stated in (0, 1, 2, 3, length - 1, length + 1, length + 100, 0xFFFF):
            lie = patched(data, part.start + 2, struct.pack(">H", stated))
            yield Case(f"length-{number}-{part.marker:02x}-said-{stated}", lie, "either")
    for count in (0, 1, 2, 4, 255):
        lie = with_frame(data, lambda header, count=count: header.__setitem__(9, count))  # type: ignore[misc]
        yield Case(f"components-said-{count}", lie, BROKEN)
    scan = find(data, SOS)
    for count in (0, 1, 2, 4, 5, 255):
        yield Case(f"components-of-scan-said-{count}", patched(data, scan.start + 4, bytes((count,))), BROKEN)
    yield Case("scan-of-unknown-component", patched(data, scan.start + 5, b"\x63"), BROKEN)
    yield Case("scan-of-one-component-twice", patched(data, scan.start + 7, b"\1"), "either")
    yield Case("scan-with-progressive-parameters", patched(data, scan.end - 3, b"\1\5\x22"), "either")
    same_identifiers = with_frame(data, lambda header: header.__setitem__(13, 1))
    yield Case("identifiers-twice", same_identifiers, "either")
    frame = find_bytes(data, 0xC0)
    at = find(data, 0xC0).start
    yield Case("frame-twice", insert(data, frame, at=at), BROKEN)
    other = patched(frame, 5, struct.pack(">HH", 8, 8))
    yield Case("frame-twice-of-other-size", insert(data, other, at=at), BROKEN)
    yield Case("frame-twice-behind-scan", data[:-2] + frame + data[scan.start :], "either")
    yield Case("frame-missing", without(data, 0xC0), BROKEN)
    header = find_bytes(data, SOS)
    yield Case("scan-before-frame", insert(data, header, at=at), BROKEN)
    yield Case("scan-before-everything", insert(data, header), BROKEN)
    yield Case("baseline-called-progressive", with_frame(data, lambda header: header.__setitem__(1, 0xC2)), "either")
    called = with_frame(progressive(), lambda header: header.__setitem__(1, 0xC0))
    yield Case("progressive-called-baseline", called, "either")
    last = progressive().rindex(b"\xff\xda")
    yield Case("progressive-last-scan-missing", progressive()[:last] + EOI, "either")
    first = find(progressive(), SOS)
    second = progressive().index(b"\xff\xda", first.end)
    yield Case("progressive-first-scan-only", progressive()[:second] + EOI, "either")
    yield Case("progressive-first-scan-missing", progressive()[: first.start] + progressive()[second:], "either")
    refining = progressive()[last:-2]
    many = progressive()[:-2] + refining * 100 + EOI
    yield Case("scans-100-behind-an-empty-image", SOI + EOI + many, BROKEN | {"too_many_scans"})
    yield Case("scans-100", many, frozenset({"too_many_scans"}))


def wrong_tables() -> Iterator[Case]:
    """Yield images with wrong or missing tables."""
    data = baseline()
    optimized = encode(picture(), quality=90, optimize=True)
    # MJPEG leaves out the standard's tables, and decoders know them.
    yield same("huffman-tables-missing", without(data, DHT), data)
    yield Case("huffman-tables-missing-optimized", without(optimized, DHT), "either")
    yield Case("huffman-tables-missing-progressive", without(progressive(), DHT), "either")
    yield Case("quantisation-tables-missing", without(data, DQT), BROKEN)
    yield Case("quantisation-tables-missing-progressive", without(progressive(), DQT), BROKEN)
    part = find(data, DQT)
    for name, byte in {"number-4": 4, "number-15": 15, "precision-1": 0x10, "precision-2": 0x20}.items():
        yield Case(f"quantisation-table-{name}", patched(data, part.start + 4, bytes((byte,))), "either")
    yield Case("quantisation-table-zeros", patched(data, part.start + 5, bytes(64)), "either")
    wide = segment(DQT, b"\x10" + b"".join(struct.pack(">H", value) for value in data[part.start + 5 : part.end][:64]))
    yield same("quantisation-table-of-16-bits", insert(data, wide, at=part.end), data)
    yield Case("quantisation-table-unused", insert(data, segment(DQT, b"\3" + bytes([9] * 64))), "same", data)
    unused = with_frame(data, lambda header: header.__setitem__(12, 3))
    yield Case("quantisation-table-not-there", unused, BROKEN)
    part = find(data, DHT)
    for name, change in {
        "number": (4, b"\x07"),
        "class": (4, b"\x20"),
        "lengths-too-many": (5, b"\xff" * 16),
        "lengths-zero": (5, bytes(16)),
        "lengths-overfull": (5, b"\3" + bytes(15)),
        "symbols-zero": (21, bytes(12)),
        "symbols-large": (21, b"\xff" * 12),
    }.items():
        yield Case(f"huffman-table-{name}", patched(data, part.start + change[0], change[1]), "either")
    yield Case("huffman-table-empty", insert(data, segment(DHT, b"")), "either")
    twice = insert(data, find_bytes(data, DHT))
    yield same("huffman-table-twice", twice, data)
    scan = find(data, SOS)
    yield Case("huffman-table-not-there", patched(data, scan.start + 6, b"\x33"), "either")
    yield Case("restart-interval-short", insert(data, segment(0xDD, b"\0")), BROKEN)
    yield Case("restart-interval-wrong", insert(data, segment(0xDD, b"\0\5")), "either")


def saved(format_name: str, **options: Any) -> bytes:
    """Return the image in another format."""
    stream = io.BytesIO()
    picture().save(stream, format_name, **options)
    return stream.getvalue()


def other_formats() -> Iterator[Case]:
    """Yield other formats named .jpg."""
    for name, hint in {"PNG": "PNG", "GIF": "GIF", "WEBP": "WebP", "BMP": "BMP", "TIFF": "TIFF"}.items():
        yield Case(f"format-{name.lower()}", saved(name), NOT_JPEG, hint=f"looks like a {hint}")
    yield Case("format-tiff-jpeg", saved("TIFF", compression="jpeg"), NOT_JPEG, hint="a TIFF")
    yield Case("format-pdf", saved("PDF"), NOT_JPEG, hint="a PDF")
    for name in ("ICO", "PPM", "TGA", "PCX", "ICNS", "EPS"):
        yield Case(f"format-{name.lower()}", saved(name), NOT_JPEG)
    for name, (data, hint) in {
        "tiff-big": (b"MM\0*\0\0\0\x08", "a TIFF"),
        "tiff-64": (b"II+\0\x08\0\0\0", ""),
        "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC"),
        "heif": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIC or AVIF"),
        "avif": (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "an AVIF"),
        "mp4": (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
        "jpeg-xl": (b"\xff\x0a\x7f\x02\x08", "a JPEG XL"),
        "jpeg-xl-boxed": (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL"),
        "jpeg-2000": (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000"),
        "jpeg-2000-stream": (b"\xff\x4f\xff\x51\0\x2f", "a JPEG 2000"),
        "jpeg-ls": (b"\xff\xd8\xff\xf7\0\x0b\x08\0\x40\0\x60\1\1\x11\0\xff\xda\0\x08\1\1\0\0\0\0", ""),
        "jpeg-xr": (b"II\xbc\1 \0\0\0", ""),
        "raw-cr2": (b"II*\0\x10\0\0\0CR\2\0", "a TIFF"),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "a text"),
        "html": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "a text"),
        "html-after-space": (b"\r\n\r\n<html></html>", ""),
        "json": (b'{"error": "not found"}', "JSON"),
        "json-list": (json.dumps(list(baseline()[:100])).encode(), ""),
        "wav": (b"RIFF\x24\0\0\0WAVEfmt ", "WAV"),
        "psd": (b"8BPS\0\1", "Photoshop"),
        "zip": (b"PK\x03\x04\x14\0", "a ZIP"),
        "elf": (b"\x7fELF\2\1\1", ""),
        "npy": (b"\x93NUMPY\1\0v\0", ""),
        "text": (b"hello", ""),
    }.items():
        yield Case(f"format-{name}", data, BROKEN if name == "jpeg-ls" else NOT_JPEG, hint=hint)
    yield Case("empty", b"", frozenset({"empty"}))
    for count in (1, 3, 100, 100_000):
        yield Case(f"zeros-{count}", bytes(count), NOT_JPEG, hint="zero bytes")
        yield Case(f"ones-{count}", b"\xff" * count, NOT_JPEG)


def wrapped() -> Iterator[Case]:
    """Yield JPEGs as clients send them by mistake."""
    data = baseline()
    text = base64.b64encode(data)
    boundary = b"----boundary7MA4YWxk"
    form = b'--%s\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n%s\r\n--%s--\r\n'
    for name, (sent, hint) in {
        "gzip": (gzip.compress(data, mtime=0), "gzip"),
        "base64-twice": (base64.b64encode(text), ""),
        "base64-data-url-in-data-url": (b"data:;base64," + base64.b64encode(b"data:image/jpeg;base64," + text), "once"),
        "base64-in-data-url": (b"data:;base64," + base64.b64encode(text), "once"),
        "data-url-of-a-png": (b"data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n"), "PNG"),
        "base64-of-a-png": (base64.b64encode(b"\x89PNG\r\n"), ""),
        "base64-json": (json.dumps({"b64": text.decode()}).encode(), "JSON"),
        "multipart": (form % (boundary, data, boundary), "multipart"),
        "length-little": (struct.pack("<I", len(data)) + data, "length in 4 bytes"),
        "length-big": (struct.pack(">I", len(data)) + data, ""),
        "length-8-bytes": (struct.pack("<Q", len(data)) + data, "a JPEG behind 8"),
        "length-twice": (struct.pack("<II", len(data) + 4, len(data)) + data, ""),
        "chunked": (f"{len(data):x}\r\n".encode() + data + b"\r\n0\r\n\r\n", ""),
        "utf-8-replaced": (data.decode("utf-8", "replace").encode(), "treated as text"),
        "latin-1-as-utf-8": (data.decode("latin-1").encode(), "treated as text"),
        "utf-8-ignored": (data.decode("utf-8", "ignore").encode(), ""),
        "utf-8-surrogates": (data.decode("utf-8", "surrogateescape").encode("utf-8", "surrogatepass"), ""),
        "utf-16": (data.decode("latin-1").encode("utf-16"), ""),
        "ascii-replaced": (data.decode("ascii", "replace").encode("ascii", "replace"), ""),
        "seven-bits": (bytes(byte & 127 for byte in data), ""),
        "hex": (data.hex().encode(), ""),
        "python-text": (repr(data).encode(), ""),
        "javascript": (b"[object Uint8Array]", ""),
        "url": (b"https://images.example/a.jpg", "a URL"),
        "file-url": (b"file:///tmp/a.jpg", ""),
        "file-name": (b"C:\\Users\\me\\a.jpg", ""),
        "reversed": (data[::-1], ""),
        "swapped": (bytes(itertools.chain.from_iterable(zip(data[1::2], data[::2], strict=False))), ""),
    }.items():
        yield Case(f"wrapped-{name}", sent, NOT_JPEG, hint=hint)
    yield from _base64(data)
    yield Case("wrapped-crlf", data.replace(b"\n", b"\r\n"), "either")
    yield Case("wrapped-crlf-removed", (data + b"\r\n").replace(b"\r\n", b"\n"), "same", data)
    yield Case("wrapped-zeros-removed", data.replace(b"\0", b""), BROKEN)
    yield Case("wrapped-ones-removed", data[:3] + data[3:].replace(b"\xff", b""), BROKEN)
    # Sent in JSON and decoded twice, for example: some bytes have become question marks.
    yield Case("wrapped-question-marks", data[:20] + data[20:].replace(b"\xff", b"?"), BROKEN)


def _base64(data: bytes) -> Iterator[Case]:
    """Yield a JPEG as texts that are decoded, and as texts that are broken."""
    text = base64.b64encode(data)
    url_safe = base64.urlsafe_b64encode(data)
    for name, sent in {
        "base64": text,
        "base64-lines": base64.encodebytes(data),
        "base64-crlf": base64.encodebytes(data).replace(b"\n", b"\r\n"),
        "base64-indented": b"  " + base64.encodebytes(data).replace(b"\n", b"\n  "),
        "base64-url": url_safe,
        "base64-without-padding": url_safe.rstrip(b"="),
        "base64-quoted": b'"' + text + b'"',
        "base64-quoted-line": b"'" + text + b"'\n",
        "data-url": b"data:image/jpeg;base64," + text,
        "data-url-of-no-type": b"data:;base64," + text,
        "data-url-in-capitals": b"DATA:IMAGE/JPEG;BASE64," + text,
        "data-url-with-parameters": b"data:image/jpeg;name=a.jpg;base64," + url_safe,
        "data-url-quoted": b'"data:image/jpg;base64,' + text + b'"',
    }.items():
        yield Case(f"wrapped-{name}", sent, "same", data)
    invalid: frozenset[Reason] = frozenset({"invalid_base64"})
    for name, (sent, hint) in {
        "base64-with-a-dot": (text[:100] + b"." + text[100:], "2E"),
        "base64-with-a-zero": (text[:100] + b"\0" + text[100:], "00"),
        "base64-with-padding-inside": (text[:100] + b"==" + text[100:], "3D"),
        "base64-in-json": (text + b'"}', "alphabet"),
        "base64-cut-inside-a-byte": (text[:101], "inside of a byte"),
        "base64-percent-encoded": (text.replace(b"+", b"%2B").replace(b"=", b"%3D") + b"%0A", "percent"),
        "data-url-percent-encoded": (b"data:image/jpeg,%FF%D8%FF%E0", "data: URL"),
        "data-url-of-text": (b"data:text/plain,hello", "data: URL"),
        "data-url-without-end": (b"data:" + b"a" * 1000, "data: URL"),
        "data-url-scheme": (b"data:", "data: URL"),
    }.items():
        yield Case(f"wrapped-{name}", sent, invalid, hint=hint)
    yield Case("wrapped-base64-cut", text[: len(text) // 8 * 4], TRUNCATED)
    yield Case("wrapped-base64-start", b"/9j/", TRUNCATED)
    yield Case("wrapped-base64-empty-data-url", b"data:image/jpeg;base64,", frozenset({"empty"}))
