import io
import json
import os
from datetime import datetime, timedelta, timezone

import pytest
from jpeg_serve.logs import LogStream, chosen_format, expected_without_gpu, format_triton_line

PID = 4321


def stamped(rest, *, level="I", pid=PID, age=timedelta()):
    moment = datetime.now(timezone.utc) - age
    return f"{level}{moment:%m%d %H:%M:%S.%f} {pid} {rest}\n".encode()


def entry(line):
    written = format_triton_line(line, PID, "json")
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    return json.loads(written)


@pytest.mark.parametrize(("level", "name"), [("I", "info"), ("W", "warning"), ("E", "error"), ("F", "error")])
def test_a_line_of_triton_has_its_level_time_file_and_message(level, name):
    found = entry(stamped('server.cc:305] "two\\nlines and a \\"word\\""', level=level))
    assert (found["level"], found["source"], found["server"], found["file"]) == (
        name,
        "tritonserver",
        PID,
        "server.cc:305",
    )
    assert found["message"] == 'two\nlines and a "word"'
    written = datetime.fromisoformat(found["time"].replace("Z", "+00:00"))
    assert abs(datetime.now(timezone.utc) - written) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "line",
    [
        stamped('server.cc:1] "x"', level="E", pid=PID + 1),
        stamped('server.cc:1] "x"', level="E", age=timedelta(days=30)),
        b'E1332 07:30:00.581849 4321 server.cc:1] "x"\n',
        b'{"level": "error", "source": "jpeg-serve", "reason": "x"}\n',
        b"jpeg-serve: error: x [y]\n",
        b'  E1128 07:30:00.581849 4321 server.cc:1] "x"\n',
        b"\xff\x00\x1b[31m\r\n",
    ],
    ids=["process", "date", "no date", "object", "own", "indented", "bytes"],
)
def test_other_lines_are_messages_only(line):
    found = entry(line)
    assert (found["level"], found["source"]) == ("info", "tritonserver")
    assert found.keys() == {"time", "level", "source", "server", "message"}


def test_text_leaves_lines_of_triton_as_they_are():
    line = stamped('server.cc:1] "x"')
    assert format_triton_line(line, PID, "text") == line
    assert format_triton_line(b"\n", PID, "json") == b""


def printed(log_format, *texts):
    stream = io.StringIO()
    log = LogStream(stream, log_format)
    for text in texts:
        print(text, file=log, flush=True)
    return stream.getvalue()


def test_text_begins_with_the_time():
    line = printed("text", "jpeg-serve: ready\n  HTTP  http://x")
    time, _, rest = line.partition(" ")
    assert datetime.fromisoformat(time.replace("Z", "+00:00")).tzinfo is not None
    assert rest == "jpeg-serve: ready\n  HTTP  http://x\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("jpeg-serve: ready\n  HTTP  x", {"level": "info", "source": "jpeg-serve", "message": "ready\n  HTTP  x"}),
        (
            "jpeg-serve: server 1 is replaced: it hangs [no_answer]",
            {
                "level": "warning",
                "source": "jpeg-serve",
                "message": "server 1 is replaced: it hangs",
                "reason": "no_answer",
            },
        ),
        (
            "jpeg-serve: error: it ended:\n  why [ended_early]",
            {"level": "error", "source": "jpeg-serve", "message": "it ended:\n  why", "reason": "ended_early"},
        ),
        # What follows the first line of a note may be another program's.
        (
            "jpeg-serve: cannot be started:\n  x [forged]",
            {"level": "info", "source": "jpeg-serve", "message": "cannot be started:\n  x [forged]"},
        ),
        ("jpeg-serve: web: a [forged]", {"level": "info", "source": "jpeg-web", "message": "a [forged]"}),
        ("Traceback:\n  x", {"level": "info", "source": "jpeg-serve", "message": "Traceback:\n  x"}),
    ],
)
def test_an_own_entry_is_one_object(text, wanted):
    (line,) = printed("json", text).splitlines()
    found = json.loads(line)
    del found["time"]
    assert found == wanted


def test_what_is_written_in_parts_is_one_entry():
    stream = io.StringIO()
    log = LogStream(stream, "json")
    log.write("Traceback:\n")
    log.write("  line\n")
    log.flush()
    assert json.loads(stream.getvalue())["message"] == "Traceback:\n  line"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], "text"),
        (["--log-format", "json"], "json"),
        (["run", "--log-format=json"], "json"),
        (["--log-format=json", "--log-format", "text"], "text"),
        (["--log-format"], "text"),
    ],
)
def test_the_last_choice_counts(arguments, wanted):
    assert chosen_format(arguments) == wanted


EXPECTED = [
    stamped('server.cc:241] "CudaDriverHelper has not been initialized."', level="E"),
    stamped(
        'ensemble_scheduler.cc:1468] "unable to create stream for a_b-c: CUDA driver version is insufficient for CUDA '
        'runtime version"',
        level="E",
    ),
]


@pytest.mark.parametrize("line", EXPECTED, ids=["driver", "stream"])
def test_an_expected_line_without_a_gpu_is_information(line):
    assert expected_without_gpu(line) == b"I" + line[1:]


@pytest.mark.parametrize(
    "line",
    [
        stamped('server.cc:241] "CudaDriverHelper has not been initialized. Another fault"', level="E"),
        stamped('ensemble_scheduler.cc:1468] "unable to create stream for x: out of memory"', level="E"),
        stamped('other.cc:241] "unable to create stream for x"', level="E"),
        b"x" + EXPECTED[0],
        os.urandom(40),
    ],
    ids=["longer", "memory", "file", "prefix", "bytes"],
)
def test_no_other_line_is(line):
    assert expected_without_gpu(line) == line
