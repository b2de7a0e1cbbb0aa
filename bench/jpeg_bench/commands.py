"""What each command of `jpeg-bench` does: options in, a result out."""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from jpeg_preprocess.cpus import usable_cpus

from jpeg_bench.asks import Ask, Load
from jpeg_bench.errors import BenchError
from jpeg_bench.machine import machine, versions
from jpeg_bench.photos import Photos, read_photos
from jpeg_bench.serve import measure, prepared
from jpeg_bench.soak import soak
from jpeg_bench.target import Target, own_server, running_server


def tell(message: str) -> None:
    """Talk, on stderr."""
    print(f"jpeg-bench: {message}", file=sys.stderr, flush=True)


def ceiling(options: argparse.Namespace) -> dict[str, Any]:
    """`jpeg-bench ceiling`."""
    from jpeg_bench.ceiling import measure_ceiling
    from jpeg_bench.steps import read_steps

    steps, photos = read_steps(options.model_repository), _photos(options)
    found = measure_ceiling(steps, photos.data, options.seconds, batch_sizes=options.batches or (), tell=tell)
    about = {"classifier": steps.classifier, "decoder": steps.preprocess.decoder}
    return {**_about(photos), **about, **found.to_json()}


def serve(options: argparse.Namespace) -> dict[str, Any]:
    """`jpeg-bench serve`."""
    photos = _photos(options)
    server: AbstractContextManager[Target] = (
        own_server(options.model_repository, options.model)
        if options.url is None
        else nullcontext(running_server(options.url, options.model))
    )
    result: dict[str, Any] = {**_about(photos), "points": [], "cross_checks": [], "soaks": []}
    with server as target:
        result |= {"start_s": target.start_s, "idle": target.idle}
        for protocol in options.protocols or list(target.addresses):
            for images in options.images_a_request:
                _serve(options, target, prepared(target, protocol, photos.data, images), result)
    return result


def _serve(options: argparse.Namespace, target: Target, asks: list[Ask], result: dict[str, Any]) -> None:
    """All loads of one protocol and one number of images a request, into the result."""
    base = _load(options)
    best = 0.0
    for in_flight in options.in_flight:
        point = measure(target, asks, replace(base, in_flight=in_flight))
        tell(str(point))
        result["points"].append(point.to_json())
        best = max(best, point.measured.requests_per_s)
        if options.cross_check and asks[0].protocol == "http":
            _cross_check(asks, in_flight, options.seconds, result)
    rates = [*(options.arrivals_per_s or ()), *(share * best for share in options.shares or ())]
    for rate in rates:
        load = replace(base, in_flight=0, arrivals_per_s=rate, poisson=options.arrivals == "poisson")
        if options.duration_s is None:
            point = measure(target, asks, load)
            tell(str(point))
            result["points"].append(point.to_json())
            continue
        tell(f"{asks[0].protocol}, requests of {asks[0].images}: {rate:.1f} a second for {options.duration_s:g} s ...")
        found = soak(target, asks, replace(load, seconds=options.duration_s))
        tell(f"drift in percent: {found['drift']}")
        result["soaks"].append(found)


def _cross_check(asks: list[Ask], in_flight: int, seconds: float, result: dict[str, Any]) -> None:
    from jpeg_bench.cross_check import wrk

    found = wrk(asks, in_flight, seconds)
    if found is None:
        raise BenchError("wrk is not on the PATH: install Debian's package wrk, or leave --cross-check out")
    tell(f"wrk, {in_flight} in flight: {found['images_per_s']:.1f} images/s, p50 {found['p50_ms']:.1f} ms")
    result["cross_checks"].append({"tool": "wrk", "images_a_request": asks[0].images, "in_flight": in_flight, **found})


def sweep(options: argparse.Namespace) -> dict[str, Any]:
    """`jpeg-bench sweep`."""
    from jpeg_bench.plots import plot_sweep, require_matplotlib
    from jpeg_bench.results import write
    from jpeg_bench.sweep import sweep as along

    if options.results is not None:
        require_matplotlib()
    load = replace(_load(options), in_flight=1)
    result = along(options.model_repository, options.photos, load, tell)
    if options.results is not None:
        write(options.results, result)
        plot_sweep(result, options.results.with_suffix(".png"))
        tell(f"written: {options.results} and .png")
    return result


def peers(options: argparse.Namespace) -> dict[str, Any]:
    """`jpeg-bench peers`."""
    from jpeg_bench.peers import broken_image
    from jpeg_bench.turns import peer_turn

    photos = _photos(options)
    chosen = _peers(options)
    result: dict[str, Any] = {**_about(photos), "peers": {}, "broken_image": {}}
    for name, configuration in chosen:
        result["peers"][f"{name} {configuration}"] = peer_turn(
            (name, configuration), options.model_repository, photos.data, _loads(options), tell
        )
    for name in dict.fromkeys(name for name, _ in chosen):
        try:
            result["broken_image"][name] = broken_image(name, usable_cpus())
        except BenchError as error:
            result["broken_image"][name] = {"failure": str(error)}
    return result


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """`jpeg-bench compare`."""
    from jpeg_bench.compare import Comparison
    from jpeg_bench.compare import compare as in_turn
    from jpeg_bench.plots import plot_comparison, require_matplotlib
    from jpeg_bench.report import table
    from jpeg_bench.results import write

    require_matplotlib()
    photos = _photos(options)
    asked = Comparison(
        repository=options.model_repository,
        own_choice=options.own_choice,
        photos=photos,
        loads=_loads(options),
        rounds=1 if options.quick and options.rounds is None else options.rounds or 3,
        explore_s=1.0 if options.quick else 2.0,
        peers=[] if options.without_peers else _peers(options),
    )
    result = in_turn(asked, tell)
    text = table(result)
    if options.results is not None:
        write(options.results, result, text)
        plot_comparison(result, options.results.with_suffix(".png"))
        tell(f"written: {options.results}, .md and .png")
    print(text, file=sys.stderr)
    return result


def _peers(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Which peers in which configuration; their environments are made if they are not there."""
    from jpeg_bench.peers import PEERS, is_prepared, prepare

    if unknown := [name for name in options.peers or () if name not in PEERS]:
        raise ValueError(f"there is no peer {', '.join(unknown)}: known are {', '.join(PEERS)}")
    chosen = []
    for name in options.peers or PEERS:
        try:
            if not is_prepared(name):
                tell(f"making the environment of {name} ...")
                prepare(name)
        except BenchError as error:
            # What cannot be installed here must not keep the others from being measured; its turn says why again.
            tell(str(error))
        chosen += [(name, configuration) for configuration in options.configurations]
    return chosen


def _photos(options: argparse.Namespace) -> Photos:
    return read_photos(options.photos, options.photo_size)


def _load(options: argparse.Namespace) -> Load:
    return Load(in_flight=1, processes=_processes(options), warmup_s=options.warmup_s, seconds=options.seconds)


def _loads(options: argparse.Namespace) -> Any:
    from jpeg_bench.turns import Loads

    seconds = 2.0 if options.quick and options.seconds is None else options.seconds or 5.0
    return Loads(
        many=options.many,
        batch=options.batch,
        batches=options.batches_in_flight,
        seconds=seconds,
        warmup_s=options.warmup_s,
        processes=_processes(options),
    )


def _processes(options: argparse.Namespace) -> int:
    """Of the clients: they share the CPUs with the server, so a quarter of them at most, unless told otherwise."""
    return options.processes or max(1, usable_cpus() // 4)


def _about(photos: Photos) -> dict[str, Any]:
    return {"machine": machine(), "versions": versions(), "photos": photos.to_json()}


def plot(options: argparse.Namespace) -> dict[str, Any]:
    """`jpeg-bench plot`."""
    from jpeg_bench.plots import plot_comparison, plot_sweep
    from jpeg_bench.results import read

    file: Path = options.result
    result = read(file)
    picture = file.with_suffix(".png")
    (plot_comparison if "rounds" in result else plot_sweep)(result, picture)
    return {"written": str(picture)}
