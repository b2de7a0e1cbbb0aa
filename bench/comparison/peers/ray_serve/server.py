"""Ray Serve: a proxy, and one actor per replica with `serve.batch`."""

import asyncio
import logging
import signal
from typing import Any

import ray
from peer_pipeline import ImageError, Pipeline, Setup
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

setup = Setup.read()


@serve.deployment(num_replicas=setup.workers, max_ongoing_requests=setup.extra.get("max_ongoing_requests", 5))
class Classifier:
    def __init__(self) -> None:
        self.pipeline = Pipeline(setup)

    @serve.batch(max_batch_size=setup.max_batch, batch_wait_timeout_s=setup.batch_wait_ms / 1000)
    async def classify(self, images: list[bytes]) -> list[Any]:
        # In a thread: the replica accepts requests meanwhile.
        return await asyncio.to_thread(self.pipeline.classify, images)

    async def __call__(self, request: Request) -> Any:
        image = await request.body()
        result = (await self.classify(image)) if setup.max_batch > 1 else self.pipeline.classify([image])[0]
        return JSONResponse({"error": str(result)}, 400) if isinstance(result, ImageError) else result


def keep_local() -> None:
    """Bind the ports of replicas to 127.0.0.1 instead of all interfaces, in each process of Ray."""
    from ray.serve._private import replica

    add_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", setup.host))


def main() -> None:
    ray.init(
        runtime_env={"worker_process_setup_hook": keep_local},
        num_cpus=max(setup.workers, 1),
        include_dashboard=False,
        _temp_dir=setup.folder,
        _node_ip_address=setup.host,
        object_store_memory=200 * 1024 * 1024,
        logging_level=logging.WARNING,
        log_to_driver=False,
    )
    serve.start(http_options={"host": setup.host, "port": setup.port})
    serve.run(Classifier.options(ray_actor_options={"num_cpus": 0.5}).bind(), route_prefix="/classify")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
