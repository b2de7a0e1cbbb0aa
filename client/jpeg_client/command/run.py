"""Classify what the user names, and write a row for each image."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jpeg_client.client import Client
from jpeg_client.command.inputs import Inputs, Source
from jpeg_client.command.outputs import Output
from jpeg_client.command.rows import Row
from jpeg_client.command.summary import Summary
from jpeg_client.prediction import Prediction


@dataclass(frozen=True)
class Run:
    """One run of the command.

    Attributes:
        client: Connection to the server.
        inputs: The images.
        output: Takes the rows.
        place: Gets each row before it is written, such as `Sorter.place`.
        k: Labels per image; None takes the server's default.
        threshold: Labels with a lower score are left out; None takes that of the model.
        concurrency: Requests at a time.
        batch_size: Images per request.
        in_order: Whether rows come in the order of the images, or as they are answered.
    """

    client: Client
    inputs: Inputs
    output: Output
    place: Callable[[Row], None]
    k: int | None
    threshold: float | None
    concurrency: int
    batch_size: int
    in_order: bool

    def classify(self, summary: Summary) -> None:
        """Classify the images.

        Raises:
            JpegClientError: No server responds, or it refuses the requests. The rows of what was answered are written.
            OSError: The output cannot be written.
        """
        names: dict[int, str] = {}
        unreadable: deque[Source] = deque()

        # Another thread takes the images: it writes no row.
        def images() -> Iterator[str | bytes]:
            number = 0
            for source in self.inputs:
                if self.output.is_done(source.name):
                    summary.skip()
                elif source.error is not None:
                    unreadable.append(source)
                else:
                    names[number] = source.name
                    number += 1
                    yield source.image

        stream = self.client.classify_stream(
            images(),
            self.k,
            threshold=self.threshold,
            concurrency=self.concurrency,
            batch_size=self.batch_size,
            order="input" if self.in_order else "completion",
        )
        for each in stream:
            self._write(Row.of(names.pop(each.index), each.prediction), summary)
            while unreadable:
                self._write(_unreadable(unreadable.popleft()), summary)
        for source in unreadable:
            self._write(_unreadable(source), summary)

    def _write(self, row: Row, summary: Summary) -> None:
        # In this order: an image with a row is not placed by a run that continues this one.
        self.place(row)
        self.output.write(row)
        summary.add(row)


def _unreadable(source: Source) -> Row:
    return Row.of(source.name, Prediction.failed(source.error or "", "folder_unreadable"))
