"""Classify the images of a Parquet dataset on Spark; docs/batch.md shows the command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator

import pyarrow as pa
from jpeg_client import Client, InvalidArgument
from jpeg_client.arrow import cause, classify_batches, output_schema
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession


def main() -> None:
    """Read INPUT, classify each partition over one client, and write OUTPUT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", help="Parquet dataset")
    parser.add_argument("output", help="Parquet dataset, which must not exist")
    parser.add_argument("--image", default="image", help="column of images: bytes, or paths and URLs")
    parser.add_argument("--url", default="grpc://localhost:8001", help="server; of a gateway grpcs://HOST:PORT")
    parser.add_argument("--ca", help="PEM file with the gateway's CA, on each worker")
    parser.add_argument("--timeout-s", type=float, default=60, help="per request, including retries")
    parser.add_argument("--model", default="jpeg_classifier", help="name of the ensemble")
    parser.add_argument("--k", type=int, help="labels per image")
    parser.add_argument("--threshold", type=float, help="leave out labels with a lower score; else the model decides")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time of each task")
    options = parser.parse_args()
    # It travels with the function below: Spark's pages show no part of it.
    key = os.environ.get("JPEG_API_KEY") or None

    def open_client() -> Client:
        return Client(options.url, api_key=key, ca=options.ca, timeout_s=options.timeout_s, model=options.model)

    def labelled(client: Client, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return classify_batches(
            client,
            batches,
            options.k,
            threshold=options.threshold,
            image=options.image,
            concurrency=options.concurrency,
        )

    def classify(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with open_client() as client:  # one for each partition, on its worker
            yield from labelled(client, batches)

    # A batch of Spark's default, 10,000 images, would fill the memory.
    builder = SparkSession.builder.appName("jpeg-classify").config("spark.sql.execution.arrow.maxRecordsPerBatch", 256)
    with builder.getOrCreate() as spark:
        try:
            with open_client() as client:
                list(labelled(client, []))  # checks the options, before a worker does
            images = spark.read.parquet(options.input)
            schema = output_schema(images.limit(0).toArrow().schema, options.image)
            rows = images.mapInArrow(classify, spark.createDataFrame(schema.empty_table()).schema)
            rows.write.parquet(options.output)
        except InvalidArgument as error:
            parser.error(f"{error} [{error.reason}]")
        except PySparkException as error:
            sys.exit(f"{parser.prog}: error: {cause(error)}")


if __name__ == "__main__":
    main()
