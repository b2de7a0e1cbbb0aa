"""The model of a server's capacity: it finds the parameters of servers that obey it, and plans with them."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_bench.capacity import MOST_USED, Capacity, Line, plan, queue_factor
from jpeg_bench.errors import BenchError

POSITIVE = st.floats(0.01, 1000)
LINES = st.builds(Line, POSITIVE, POSITIVE)
CAPACITIES = st.builds(Capacity, st.floats(10, 1e5), LINES, LINES, LINES, st.floats(100, 1e7), st.floats(100, 1e4))


def points_of(server, fractions):
    points = []
    for fraction in fractions:
        rate = fraction * server.peak_images_per_s
        one = server.at(rate)
        points.append({"images_per_s": rate, **one, "cpu_cores": {"all": one["cores"]}})
    return points


@given(CAPACITIES)
def test_a_fit_finds_the_server_that_was_measured_and_predicts_another_load(server):
    fitted = Capacity.fit(
        server.peak_images_per_s, points_of(server, [0.3, 0.5, 0.7, 0.8]), server.request_bytes, server.response_bytes
    )
    rate = 0.9 * server.peak_images_per_s
    for name, value in server.at(rate).items():
        assert fitted.at(rate)[name] == pytest.approx(value, rel=1e-4)


@given(st.lists(st.tuples(st.floats(0, 100), POSITIVE), min_size=1, max_size=10))
def test_a_line_has_no_negative_parameter_and_no_better_constant(points):
    x, y = zip(*points, strict=True)
    line = Line.fit(x, y)
    assert line.base >= 0
    assert line.slope >= 0

    def error(base):
        return sum((base / each - 1) ** 2 for each in y)

    found = sum((line.at(each) / wanted - 1) ** 2 for each, wanted in zip(x, y, strict=True))
    assert found <= min(map(error, y)) + 1e-6


@given(CAPACITIES, st.floats(1, 1e7), st.floats(1.01, 100))
def test_a_plan_keeps_its_promises_with_the_fewest_servers(server, rate, factor):
    limit = server.p99_ms.base * factor
    found = plan(server, rate, p99_ms=limit, gateway_gigabits=10)
    assert found.utilisation <= MOST_USED * (1 + 1e-9)
    assert found.p99_ms <= limit * (1 + 1e-9)
    if found.servers > 1:
        fewer = rate / (found.servers - 1) / server.peak_images_per_s
        assert fewer > MOST_USED or server.p99_ms.at(queue_factor(fewer)) > limit * (1 - 1e-9)
    assert found.gateways == max(1, math.ceil(max(found.gigabits_in, found.gigabits_out) / 10))


def test_what_no_server_reaches_is_refused():
    server = Capacity(100.0, Line(10, 1), Line(20, 5), None, 1e5, 1e3)
    with pytest.raises(BenchError) as caught:
        plan(server, 50, p99_ms=20)
    assert caught.value.reason == "latency_out_of_reach"
    with pytest.raises(BenchError) as caught:
        Capacity.fit(100.0, points_of(server, [0.5]), 1, 1)
    assert caught.value.reason == "too_few_points"


@given(CAPACITIES)
def test_a_model_survives_json(server):
    assert Capacity.from_json(json.loads(json.dumps(server.to_json()))) == server
