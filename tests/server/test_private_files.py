"""What a running server keeps in files is readable by its user only: photos, keys, and logs with requests."""

import stat
from pathlib import Path

from conftest import serve
from jpeg_client import Client
from jpeg_serve import shared_memory, state
from repository.static_repository import make_repository
from support import photo

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def test_nobody_else_reads_the_files_of_a_server(tmp_path):
    repository = make_repository(tmp_path / "model_repository")
    log = tmp_path / "requests.log"
    for server in serve(repository, tmp_path / "triton.log", triton=("--log-verbose=1", f"--log-file={log}")):
        with Client(f"http://{server.http_address}") as client:
            client.classify([photo("coffee")])
        ((file, running),) = [found for found in state.find_running() if found[1].pid == server.pid]
        run, segments = Path(running.run_folder), shared_memory.segments(running.shm_prefix)
        assert segments
        assert list(run.iterdir())
        assert "/v2/models/jpeg_classifier/infer" in log.read_text()
        for path in (file, file.parent, run, *run.iterdir(), *segments, log):
            assert not path.stat().st_mode & OTHERS, path
