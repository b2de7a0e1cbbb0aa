"""TorchServe: a custom handler; the Java frontend collects batches for the workers."""

from typing import Any

from peer_pipeline import ImageError, Pipeline, Setup


class Classifier:
    def initialize(self, _context: Any) -> None:
        self.pipeline = Pipeline(Setup.read())

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        results = self.pipeline.classify([bytes(row.get("body") or row.get("data")) for row in data])
        for index, result in enumerate(results):
            if isinstance(result, ImageError):
                context.set_response_status(code=400, idx=index)
        return [{"error": str(result)} if isinstance(result, ImageError) else result for result in results]
