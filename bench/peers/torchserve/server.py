"""TorchServe: a handler of ours; its frontend, in Java, collects batches for the workers."""

from typing import Any

from jpeg_preprocess import ImageError
from peer_pipeline import Pipeline, Setup


class Classifier:
    def initialize(self, _context: Any) -> None:
        self.pipeline = Pipeline(Setup.read())

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        answers = self.pipeline.classify([bytes(row.get("body") or row.get("data")) for row in data])
        for index, answer in enumerate(answers):
            if isinstance(answer, ImageError):
                context.set_response_status(code=400, idx=index)
        return [{"error": str(answer)} if isinstance(answer, ImageError) else answer for answer in answers]
