"""LitServe: a queue from the HTTP processes to the workers, which batch the waiting requests."""

from typing import Annotated, Any

import litserve as ls
from fastapi import Body, HTTPException
from peer_pipeline import ImageError, Pipeline, Setup


class Classifier(ls.LitAPI):
    def setup(self, _device: str) -> None:
        self.pipeline = Pipeline(Setup.read())

    # FastAPI passes the raw body; LitServe's default is JSON or a form.
    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def predict(self, x: Any) -> Any:
        return self.pipeline.classify(x) if isinstance(x, list) else self.pipeline.classify([x])[0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        if isinstance(output, ImageError):
            raise HTTPException(400, str(output))
        return output


def main() -> None:
    setup = Setup.read()
    batching = {"max_batch_size": setup.max_batch, "batch_timeout": setup.batch_wait_ms / 1000}
    api = Classifier(**(batching if setup.max_batch > 1 else {}))
    options = {"fast_queue": True} if setup.extra.get("fast_queue") else {}
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=setup.workers, **options)
    served = {"num_api_servers": setup.extra["api_servers"]} if "api_servers" in setup.extra else {}
    server.run(host=setup.host, port=setup.port, generate_client_file=False, log_level="warning", **served)


if __name__ == "__main__":
    main()
