"""Classify the images of a Parquet dataset on Ray Data; docs/batch.md shows the command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import ray
from jpeg_client import Client, InvalidArgument
from jpeg_client.arrow import cause, classify_batches, output_schema
from ray.exceptions import RayError


class Classifier:
    """Classify blocks of rows over one client, in an actor.

    Args:
        open_client: Opens the client.
        options: Of the command line.
    """

    def __init__(self, open_client: Callable[[], Client], options: argparse.Namespace) -> None:
        self._client, self._options = open_client(), options

    def __call__(self, block: pa.Table) -> pa.Table:
        """Return the rows of a block with their labels."""
        batches = labelled(self._client, block.to_batches(max_chunksize=256), self._options)
        return pa.Table.from_batches(batches, output_schema(block.schema, self._options.image))


def labelled(
    client: Client, batches: Sequence[pa.RecordBatch], options: argparse.Namespace
) -> Iterator[pa.RecordBatch]:
    """Yield batches with their labels. options: of the command line."""
    return classify_batches(
        client,
        batches,
        options.k,
        threshold=options.threshold,
        image=options.image,
        concurrency=options.concurrency,
    )


def main() -> None:
    """Read INPUT, classify its blocks in a pool of actors, and write OUTPUT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", help="Parquet dataset")
    parser.add_argument("output", help="Parquet dataset, which must not exist")
    parser.add_argument("--image", default="image", help="column of images: bytes, or paths and URLs")
    parser.add_argument("--url", default="grpc://localhost:8001", help="server; of a gateway grpcs://HOST:PORT")
    parser.add_argument("--ca", help="PEM file with the gateway's CA, on each node")
    parser.add_argument("--timeout-s", type=float, default=60, help="per request, including retries")
    parser.add_argument("--model", default="jpeg_classifier", help="name of the ensemble")
    parser.add_argument("--k", type=int, help="labels per image")
    parser.add_argument("--threshold", type=float, help="leave out labels with a lower score; else the model decides")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time of each actor")
    parser.add_argument("--actors", type=int, default=4, help="at most")
    parser.add_argument("--retries", type=int, default=3, help="of a block whose server is gone")
    options = parser.parse_args()
    # It travels with the function below: Ray's dashboard shows no part of it.
    key = os.environ.get("JPEG_API_KEY") or None

    def open_client() -> Client:
        return Client(options.url, api_key=key, ca=options.ca, timeout_s=options.timeout_s, model=options.model)

    context = ray.data.DataContext.get_current()
    context.retried_map_errors, context.max_map_retries = True, options.retries  # by default an error ends the job
    try:
        with open_client() as client:
            list(labelled(client, [], options))  # checks the options, before an actor does
        images = ray.data.read_parquet(options.input)
        if schema := images.schema():
            output_schema(pa.schema(list(zip(schema.names, schema.types, strict=True))), options.image)
        images.map_batches(
            Classifier,
            fn_constructor_args=(open_client, options),
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=options.actors),
            num_cpus=0.25,  # an actor mostly waits for the server
        ).write_parquet(options.output, mode=ray.data.SaveMode.ERROR)
    except InvalidArgument as error:
        parser.error(f"{error} [{error.reason}]")
    except (RayError, ValueError) as error:  # the latter if OUTPUT exists
        sys.exit(f"{parser.prog}: error: {cause(error)}")
    # Ray writes each block when it is done: the marker states, as Spark's, that all are there.
    target = options.output if "://" in options.output else str(Path(options.output).resolve())
    files, folder = pyarrow.fs.FileSystem.from_uri(target)
    files.create_dir(folder)  # no block came of an input without rows
    files.open_output_stream(f"{folder}/_SUCCESS").close()


if __name__ == "__main__":
    main()
