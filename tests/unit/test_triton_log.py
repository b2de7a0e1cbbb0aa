import logging
import warnings

import pytest
from jpeg_runtime.triton_log import TritonLogHandler, log_to_triton


class Recorder:
    """Stands for `pb_utils.Logger`, which exists inside of Triton only."""

    def __init__(self):
        self.lines = []

    def log_info(self, text):
        self.lines.append(("info", text))

    def log_warn(self, text):
        self.lines.append(("warning", text))

    def log_error(self, text):
        self.lines.append(("error", text))


@pytest.fixture
def recorder():
    root, recorder = logging.getLogger(), Recorder()
    before = root.handlers[:]
    log_to_triton(recorder)
    yield recorder
    root.handlers[:] = before
    logging.captureWarnings(capture=False)


def test_each_record_is_one_entry_of_its_level(recorder):
    log = logging.getLogger("jpeg_anything")
    log.warning("odd: %s", "a\nb")
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it failed")
    (warned, first), (failed, second) = recorder.lines
    assert (warned, first) == ("warning", "odd: a\nb")
    assert failed == "error"
    assert second.startswith("it failed\nTraceback")
    assert second.endswith("ValueError: why")


def test_warnings_are_entries_too(recorder):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old", UserWarning, stacklevel=1)
    assert [level for level, _ in recorder.lines] == ["warning"]


def test_a_second_model_in_the_process_adds_no_second_handler(recorder):
    log_to_triton(Recorder())
    assert sum(isinstance(handler, TritonLogHandler) for handler in logging.getLogger().handlers) == 1
