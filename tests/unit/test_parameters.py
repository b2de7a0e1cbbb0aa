"""Reading `parameters` of a config into typed classes."""

import json
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_contract.forms import FORMS, OpenVinoParameters, TorchParameters
from jpeg_contract.parameters import SettingsError, parameters_of, read_parameters


class Sample(msgspec.Struct, frozen=True, kw_only=True, rename={"renamed": "RENAMED"}):
    """One field of each kind that the settings use."""

    required: str
    switch: bool = True
    natural: Annotated[int, msgspec.Meta(ge=0)] = 0
    small: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0
    choice: Literal["left", "right"] = "left"
    optional: Annotated[int, msgspec.Meta(ge=0)] | None = None
    optional_choice: Literal["left", "right"] | None = None
    described: Annotated[str, msgspec.Meta(pattern="^x+$", extra_json_schema={"description": "some x"})] = "x"
    renamed: int = 0


def values_of(kind):
    """Values of a field's type, as msgspec describes it."""
    if isinstance(kind, msgspec.inspect.Metadata):
        return values_of(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        return st.one_of([values_of(each) for each in kind.types if not isinstance(each, msgspec.inspect.NoneType)])
    if isinstance(kind, msgspec.inspect.LiteralType):
        return st.sampled_from(kind.values)
    if isinstance(kind, msgspec.inspect.BoolType):
        return st.booleans()
    if isinstance(kind, msgspec.inspect.IntType):
        return st.integers(kind.ge, 10**6 if kind.le is None else kind.le)
    assert isinstance(kind, msgspec.inspect.StrType)
    return st.from_regex(kind.pattern, fullmatch=True) if kind.pattern else st.text("abc_./-", max_size=9)


def text_of(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_sample(**parameters):
    return read_parameters(Sample, {"required": "r", **parameters})


@pytest.mark.parametrize("kind", [Sample, *(form.parameters for form in FORMS.values())])
@given(data=st.data(), space=st.sampled_from(["", " ", "\n"]))
def test_values_survive_as_texts(kind, data, space):
    fields = msgspec.structs.fields(kind)
    chosen = data.draw(st.sets(st.sampled_from([field.name for field in fields]))) if fields else set()
    values = {
        field.name: data.draw(values_of(msgspec.inspect.type_info(field.type)), field.name)
        for field in fields
        if field.required or field.name in chosen
    }
    texts = {field.encode_name: text_of(values[field.name]) for field in fields if field.name in values}
    assert read_parameters(kind, {name: f"{space}{text}{space}" for name, text in texts.items()}) == kind(**values)


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=5), st.booleans())
def test_any_texts_are_read_or_refused(parameters, strict_names):
    try:
        read = read_parameters(Sample, {"required": "r", **parameters}, strict_names=strict_names)
    except SettingsError as error:
        assert error.reason in ("unknown_parameter", "invalid_setting")
    else:
        assert isinstance(read, Sample)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("switch", "yes", "true or false"),
        ("switch", "", "true or false"),
        ("switch", "null", "true or false"),
        ("natural", "-1", "at least 0"),
        ("natural", "two", "an integer"),
        ("natural", "50e6", "an integer"),
        ("natural", "3.0", "an integer"),
        ("natural", "0x10", "an integer"),
        ("natural", "٣", "an integer"),
        ("natural", "", "an integer"),
        ("small", "2", "at most 1"),
        ("choice", "middle", "left, right"),
        ("choice", "LEFT", "left, right"),
        ("optional", "null", "an integer"),
        ("optional_choice", "null", "left, right"),
        ("described", "y", "some x"),
        ("RENAMED", "one", "an integer"),
    ],
)
def test_an_invalid_value_is_refused_with_the_values_that_are_possible(name, text, expected):
    with pytest.raises(SettingsError) as caught:
        read_sample(**{name: text})
    assert caught.value.reason == "invalid_setting"
    assert str(caught.value).startswith(f"parameter {name} is {text!r}: ")
    assert expected in str(caught.value)


def test_the_words_for_booleans_are_those_of_the_native_backends():
    for text, value in {"true": True, "ON": True, "1": True, "False": False, "off": False, "0": False}.items():
        assert read_sample(switch=text).switch is value


def test_a_misspelt_name_is_refused_with_the_nearest_one():
    with pytest.raises(SettingsError, match=r"parameter swich is unknown; .*switch") as caught:
        read_sample(swich="true")
    assert caught.value.reason == "unknown_parameter"
    with pytest.raises(SettingsError, match=r"choice.*required.*switch"):
        read_sample(xyz="true")


def test_an_unknown_name_in_capitals_is_tritons_own():
    assert read_sample(EXECUTION_ENV_PATH="x", FORCE_CPU_ONLY_INPUT_TENSORS="no") == Sample(required="r")
    # A known one in capitals is checked as any other.
    assert read_sample(RENAMED="7").renamed == 7


def test_unknown_names_are_left_alone_on_request():
    parameters = {"required": "r", "session.intra_op.allow_spinning": "0", "swich": "true"}
    assert read_parameters(Sample, parameters, strict_names=False) == Sample(required="r")


def test_a_missing_parameter_names_the_remedy():
    with pytest.raises(SettingsError, match="parameter required is missing: build the model again") as caught:
        read_parameters(Sample, {})
    assert caught.value.reason == "missing_parameter"


def test_the_names_are_the_native_backends():
    read = read_parameters(OpenVinoParameters, {"NUM_STREAMS": "AUTO", "INFERENCE_NUM_THREADS": "3"})
    assert (read.num_streams, read.inference_num_threads, read.performance_hint) == ("AUTO", 3, None)
    assert read_parameters(TorchParameters, {"INTRA_OP_THREAD_COUNT": "2", "INFERENCE_MODE": "off"}) == TorchParameters(
        intra_op_thread_count=2, inference_mode=False
    )
    with pytest.raises(SettingsError, match="a number of streams, AUTO or NUMA"):
        read_parameters(OpenVinoParameters, {"NUM_STREAMS": "two"})


def test_parameters_are_taken_from_tritons_config():
    config = {"name": "m", "parameters": {"a": {"string_value": "1"}, "b": {}}}
    for given_config in (config, json.dumps(config)):
        assert parameters_of(given_config) == {"a": "1", "b": ""}
    assert parameters_of("{}") == {}
