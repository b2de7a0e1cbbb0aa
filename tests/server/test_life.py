"""A server's life: it starts, reports that, stops on a signal, and leaves nothing behind, however it ends."""

import json
import os
import resource
import signal
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from conftest import serve
from jpeg_client import Client
from jpeg_contract.artefacts import artefact_sha256
from jpeg_contract.report import ArtefactFile, read_report, write_report
from jpeg_serve import ServerOptions, TritonServer, state
from jpeg_serve.locate import find_installation
from jpeg_serve.ports import LOOPBACK, free_port
from jpeg_serve.triton_metrics import read_metrics, waiting_requests
from serve_command import gone
from support import PHOTOS, ROOT, edit, photo, run_module, wait_for_batches


def test_it_is_ready_only_with_its_metrics(server):
    """Triton opens that port last: a scrape right after the start was refused once."""
    without = TritonServer(replace(server.options, metrics_port=free_port(LOOPBACK)))
    assert (server.is_ready(), without.is_ready()) == (True, False)


def test_it_reports_that_it_is_ready_and_stops_on_a_signal(command):
    # Beside each other: a server that starts or stops waits most of the time.
    servers = {number: command() for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    families = {}
    for number, server in servers.items():
        address = server.wait_for(r"ready\n  HTTP     http://(\S+)")[1]
        with Client(f"http://{address}") as client:
            assert client.classify([photo("coffee")], k=1)[0].labels == ("espresso",)
        families[number] = server.family()
        assert len(families[number]) >= 5  # itself, tritonserver, a worker for each of three models
        assert server.segments()
    for number, server in servers.items():
        server.process.send_signal(number)
    for number, server in servers.items():
        assert server.process.wait(30) == 0, number
        assert server.text().endswith(" jpeg-serve: stopped\n"), number
        assert server.output.read() == ""
        assert gone(families[number]) == [], number
        assert server.segments() == [], number


def test_an_open_request_is_finished_before_it_stops(command, repository):
    # Some seconds in which the request waits for a batch to fill, and before it each of the two of the probe.
    wait_for_batches(repository / "preprocess", 64, seconds=3)
    server = command(repository=repository)
    address, metrics = server.wait_for(r"HTTP     http://(\S+)\n.*\n  metrics  http://(\S+)/metrics").groups()

    def classify():
        with Client(f"http://{address}") as client:
            predictions = client.classify([photo("coffee")], k=1)
        return predictions[0].labels, time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(classify)
        while not waiting_requests(read_metrics(metrics)).get("preprocess"):
            assert not request.done()
            time.sleep(0.05)
        stopped = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        labels, finished = request.result()
    assert labels == ("espresso",)
    assert finished > stopped
    assert server.process.wait(30) == 0


def test_a_second_signal_ends_it_at_once(command):
    server = command("--drain-s", "600")
    address = server.wait_for(r"HTTP     http://(\S+)")[1]
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as open_connection:
        open_connection.sendall(
            b"POST /v2/models/jpeg_classifier/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        )
        family = server.family()
        server.process.send_signal(signal.SIGINT)
        server.wait_for("open requests are finished first")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
    assert gone(family) == []
    assert server.segments() == []


def test_a_signal_while_the_models_load_stops_it(command):
    server = command()
    server.wait_for("loading the models")
    family = server.family()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(40) == 0
    assert gone(family) == []
    assert server.segments() == []


def test_a_server_that_dies_is_replaced_and_leaves_nothing(command):
    server = command()
    address = server.wait_for(r"HTTP     http://(\S+)")[1]
    me, *family = server.family()
    triton = next(process for process in family if process.name() == "tritonserver")
    triton.kill()
    server.wait_for(r"server 1 is replaced: .*\[server_died\]")
    server.wait_for("server 1 serves again")
    with Client(f"http://{address}") as client:
        assert client.classify([photo("coffee")], k=1)[0].labels == ("espresso",)
    assert gone(family) == []
    me.terminate()
    assert server.process.wait(30) == 0
    assert "Traceback" not in server.text()
    assert server.segments() == []


def test_a_server_that_cannot_start_again_is_tried_until_it_can(command, repository):
    server = command(repository=repository)
    server.wait_for("jpeg-serve: ready")
    edit(repository / "preprocess" / "config.pbtxt", '"scaled"', '"quick"')
    triton = next(process for process in server.family() if process.name() == "tritonserver")
    triton.kill()
    server.wait_for("server 1 cannot be started, the next try follows")
    edit(repository / "preprocess" / "config.pbtxt", '"quick"', '"scaled"')
    server.wait_for("server 1 serves again")


def test_the_server_of_a_killed_jpeg_serve_ends(command):
    server = command()
    server.wait_for("jpeg-serve: ready")
    family = server.family()
    server.process.kill()
    server.process.wait()
    assert gone(family, timeout_s=40) == []
    assert server.segments() == []


def test_a_server_is_started_again_at_once_on_the_ports_of_one_that_was_killed(command, tmp_path, monkeypatch):
    """The server of the one that was killed still has them: it unloads its models before it lets go."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = command()
    first.wait_for("jpeg-serve: ready")
    family = first.family()
    ((_, running),) = state.find_running()
    ports = [
        part
        for name in ("http", "grpc", "metrics")
        for part in (f"--{name}-port", getattr(running, f"{name}_address").rpartition(":")[2])
    ]
    first.process.kill()
    first.process.wait()
    assert running.is_orphaned()
    again = command(*ports)
    again.wait_for("jpeg-serve: ready")
    assert gone(family) == []
    ((_, found),) = state.find_running()
    assert found.pid != running.pid
    assert found.http_address == running.http_address


def test_a_taken_port_is_one_sentence(command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        server = command("--grpc-port", port)
        assert server.process.wait(30) == 1
    (line,) = server.text().splitlines()
    assert f"port {port} on 127.0.0.1" in line
    assert "--grpc-port 0" in line
    assert line.endswith("[port_taken]")


@pytest.mark.parametrize("lost", [0, 1], ids=["http", "grpc"])  # without its metrics port, Triton goes on
def test_a_free_port_that_is_taken_meanwhile_is_replaced_by_another(built_repository, tmp_path, monkeypatch, lost):
    from jpeg_serve import ports

    free_port = ports.free_port
    chosen: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:

        def race(address):
            chosen.append(taken.getsockname()[1] if len(chosen) == lost else free_port(address))
            return chosen[-1]

        monkeypatch.setattr(ports, "free_port", race)
        for server in serve(built_repository, tmp_path / "triton.log"):
            assert len(chosen) == 6
            with Client(f"grpc://{server.grpc_address}") as client:
                assert client.classify([photo("coffee")], k=1)[0].labels == ("espresso",)


def test_a_model_that_does_not_load_is_named_with_its_reason(command, repository):
    """A file that only the runtime can refuse: its report describes it."""
    artefact = repository / "classifier_onnx" / "1" / "model.onnx"
    artefact.write_bytes(b"no ONNX file")
    file = ArtefactFile(file=artefact.name, sha256=artefact_sha256(artefact))
    write_report(msgspec.structs.replace(read_report(artefact), artefact=file), artefact)
    server = command(repository=repository)
    assert server.process.wait(60) == 1
    *_, head, reason = server.text().splitlines()
    assert head.endswith(" jpeg-serve: error: tritonserver ended before it was ready (exit status 1):")
    assert reason.startswith("  classifier_onnx: Internal: ModelLoadError: model.onnx cannot be loaded by ONNX Runtime")
    assert reason.endswith("[ended_early]")
    assert server.segments() == []


def test_a_repository_with_a_problem_is_not_served(command, repository):
    edit(repository / "preprocess" / "config.pbtxt", '"scaled"', '"quick"')
    server = command(repository=repository)
    assert server.process.wait(60) == 1
    head, problem = server.text().splitlines()
    assert head.endswith(f" jpeg-serve: error: {repository} cannot be served:")
    assert "preprocess/config.pbtxt: parameter decoder is 'quick'" in problem
    assert problem.endswith("[invalid_setting] [repository_problems]")


def test_options_after_the_dashes_go_to_triton(command):
    server = command("--", "--log-verbose=1", "--id=my-server")
    address = server.wait_for(r"ready\n  HTTP     http://(\S+)")[1]
    client = httpclient.InferenceServerClient(address)
    assert client.get_server_metadata()["name"] == "my-server"
    client.close()


def test_it_listens_on_loopback_only(server):
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")  # an IPv4 address in a socket for both
        for connection in psutil.Process(server.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


MANAGEMENT = {
    "v2/repository/models/jpeg_classifier/unload": {},
    "v2/repository/models/evil/load": {"parameters": {"config": "{}"}},
    "v2/logging": {"log_verbose_level": 1},
    "v2/trace/setting": {"trace_level": ["TIMESTAMPS"]},
    "v2/systemsharedmemory/region/mine/register": {"key": "/nobody", "offset": 0, "byte_size": 1},
}


def status_of(address, path, body):
    """Send a request as a web page does: text/plain needs no permission of the server."""
    request = urllib.request.Request(
        f"http://{address}/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "text/plain", "Origin": "http://evil.test"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_nobody_else_reads_the_photos_in_shared_memory(server):
    with Client(f"http://{server.http_address}") as client:
        client.classify([photo("coffee")])
    segments = list(Path("/dev/shm").glob(f"jpeg_serve_{os.getpid()}_*"))
    assert segments
    assert [path.name for path in segments if path.stat().st_mode & 0o077] == []


def test_management_needs_a_key_also_for_a_page_in_a_local_browser(server):
    for path, body in MANAGEMENT.items():
        assert status_of(server.http_address, path, body) == 403, path
    remote = grpcclient.InferenceServerClient(server.grpc_address)
    for manage in (
        lambda: remote.unload_model("jpeg_classifier"),
        lambda: remote.load_model("evil", config="{}"),
        lambda: remote.update_log_settings({"log_verbose_level": 1}),
        lambda: remote.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}),
        lambda: remote.register_system_shared_memory("mine", "/nobody", 1),
    ):
        with pytest.raises(grpcclient.InferenceServerException, match="restricted"):
            manage()
    remote.close()
    with Client(f"grpc://{server.grpc_address}") as client:
        assert client.classify([photo("coffee")], k=1)[0].labels == ("espresso",)


def test_users_may_set_a_management_key_of_their_own(command):
    server = command("--", "--http-restricted-api=model-repository:admin-key=mine")
    address = server.wait_for(r"ready\n  HTTP     http://(\S+)")[1]
    client = httpclient.InferenceServerClient(address)
    index = client.get_model_repository_index(headers={"admin-key": "mine"})
    assert {model["name"] for model in index} >= {"jpeg_classifier"}
    client.close()


def test_a_server_on_the_path_is_used(built_repository, tmp_path, monkeypatch):
    """A tritonserver laid out as in NVIDIA's container: its own Python backend, none of ours among its natives."""
    import shutil

    wheel = find_installation()
    assert wheel.stub is not None
    installed = tmp_path / "tritonserver"
    shutil.copytree(wheel.backends, installed / "backends")
    shutil.copy2(wheel.stub, installed / "backends" / "python" / "triton_python_backend_stub")
    script = installed / "bin" / "tritonserver"
    script.parent.mkdir()
    libraries = os.pathsep.join(map(str, wheel.library_folders))
    script.write_text(
        f'#!/bin/sh\necho started by {script}\nLD_LIBRARY_PATH={libraries} exec {wheel.executable} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    log = tmp_path / "triton.log"
    for server in serve(built_repository, log):
        with Client(f"grpc://{server.grpc_address}") as client:
            assert client.classify([photo("coffee")], k=1)[0].labels == ("espresso",)
    assert f"started by {script}" in log.read_text()


def test_two_servers_beside_each_other(built_repository, tmp_path, server):
    for other in serve(built_repository, tmp_path / "triton.log"):
        assert other.pid != server.pid
        with Client(f"grpc://{other.grpc_address}") as client:
            assert client.classify([photo("coffee")], k=1)[0].labels == ("espresso",)
    with Client(f"grpc://{server.grpc_address}") as client:
        assert client.classify([photo("coffee")], k=1)[0].labels == ("espresso",)


def test_more_connections_than_the_default_limit_of_open_files_get_responses(built_repository):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1024:
        pytest.skip("this machine allows fewer than 1024 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        options = ServerOptions(built_repository, http_port=0, grpc_port=0, metrics_port=0, backends=ROOT / "backends")
        server = TritonServer(options)
        server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    connections = []
    try:
        server.wait_until_ready()
        host, port = server.http_address.split(":")
        for _ in range(300):
            connections.append(socket.create_connection((host, int(port)), timeout=10))
            connections[-1].sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: triton\r\n\r\n")
        assert {connection.recv(4096)[:15] for connection in connections} == {b"HTTP/1.1 200 OK"}
    finally:
        for connection in connections:
            connection.close()
        server.stop()


def test_the_command_line_classifies_files_and_folders(server):
    url = f"grpc://{server.grpc_address}"
    done = run_module("jpeg_client", "--url", url, "-k", "1", PHOTOS / "coffee.jpg", PHOTOS, cwd=ROOT)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"{PHOTOS / 'coffee.jpg'}: espresso 0.992"
    assert len(lines) == 8
    mixed = run_module("jpeg_client", "--url", url, "--json", __file__, PHOTOS / "coffee.jpg")
    assert mixed.returncode == 1
    broken, good = map(json.loads, mixed.stdout.splitlines())
    assert broken["error"].startswith("not a JPEG")
    assert good["labels"][0] == "espresso"
    refused = run_module("jpeg_client", "--url", url, "-k", "1001", PHOTOS / "coffee.jpg")
    assert refused.returncode == 3
    assert "from 1 to 1000" in refused.stderr
    assert refused.stderr.endswith("[invalid_k]\n")
    unreadable = run_module("jpeg_client", "--url", url, "-k", "1", "/proc/self/mem", PHOTOS / "coffee.jpg")
    assert unreadable.returncode == 1
    assert "/proc/self/mem" in unreadable.stderr
    assert "espresso" in unreadable.stdout
    swapped = run_module("jpeg_client", "--url", f"http://{server.grpc_address}", PHOTOS / "coffee.jpg")
    assert swapped.returncode == 3


def test_a_timeout_is_an_error_of_its_own():
    # A port that accepts connections and never responds.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for scheme in ("grpc", "http"):
            done = run_module("jpeg_client", "--url", f"{scheme}://127.0.0.1:{port}", "--timeout-s", "1", __file__)
            assert done.returncode == 1
            assert done.stderr.endswith("[server_timeout]\n")
