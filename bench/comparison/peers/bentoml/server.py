"""BentoML: a service in several processes; comparison/peer_settings.py explains why it does not batch."""

from typing import Annotated, Any

import bentoml
from bentoml.exceptions import InvalidArgument
from bentoml.validators import ContentType
from peer_pipeline import ImageError, Pipeline, Setup

setup = Setup.read()


@bentoml.service(workers=setup.workers, traffic={"timeout": 60})
class Classifier:
    def __init__(self) -> None:
        self.pipeline = Pipeline(setup)

    @bentoml.api(route="/classify")
    def classify(self, image: Annotated[bytes, ContentType("image/jpeg")], /) -> dict[str, Any]:
        try:
            return self.pipeline.classify_one(image)
        except ImageError as error:
            raise InvalidArgument(str(error)) from error
