from __future__ import annotations

import pytest
from serve_command import Command


@pytest.fixture
def command(built_repository, tmp_path):
    started = []

    def start(*options, repository=built_repository, environment=None):
        started.append(Command(repository, tmp_path, *options, environment=environment))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.wait()
        each.output.close()
