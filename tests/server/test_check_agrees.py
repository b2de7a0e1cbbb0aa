"""The verdicts of jpeg-serve check, against a real tritonserver that gets the same repository unchecked."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import serve
from jpeg_serve import check_repository
from jpeg_serve.check import CheckResult, examine_repository
from jpeg_serve.errors import ServerDied
from repository.mistakes import MISTAKES, UNUSUAL
from repository.static_repository import make_repository

# A server that neither ends nor becomes ready within this time does not load the repository.
READY_S = 60
# Most of the time, a server that starts or ends waits.
SERVERS_AT_ONCE = 4

REFUSED = {name: mistake.change for name, mistake in MISTAKES.items() if not mistake.loads}
CHANGES = {**REFUSED, **UNUSUAL}
assert len(CHANGES) == len(REFUSED) + len(UNUSUAL)

pytestmark = pytest.mark.timeout(900)


def load(repository, log):
    """Load a repository in a real tritonserver, and stop it. Returns whether it loaded."""
    try:
        # No time for an orderly end: Triton's verdict is in its exit status.
        for _ in serve(repository, log, ready_timeout_s=READY_S, drain_s=0):
            pass
    except ServerDied:
        return False
    return True


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory):
    """For each selected case: whether the check accepts the repository, and whether tritonserver loads it."""
    folder = tmp_path_factory.mktemp("cases")
    right = make_repository(folder / "right")
    result = CheckResult([], served_with=examine_repository(right).served_with)
    here = [item for item in request.session.items if item.path == request.path]
    names = [item.callspec.params["name"] for item in here]

    def run(number, name):
        repository = shutil.copytree(right, folder / str(number) / "model_repository")
        CHANGES[name](repository)
        return check_repository(repository) == [], load(repository, repository.with_name("triton.log"))

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(SERVERS_AT_ONCE) as pool:
        patch.setattr("jpeg_serve.server.examine_repository", lambda *_, **__: result)
        return dict(zip(names, pool.map(run, range(len(names)), names), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_repositories_that_triton_does_not_load_are_refused(outcomes, name):
    is_accepted, is_loaded = outcomes[name]
    assert not is_loaded
    assert not is_accepted


@pytest.mark.parametrize("name", UNUSUAL)
def test_accepted_repositories_load(outcomes, name):
    is_accepted, is_loaded = outcomes[name]
    assert is_accepted
    assert is_loaded
