"""Several ensembles in one repository: their names, what they share, and how one is removed."""

import numpy as np
import pytest
from colours import RGB, colour_recipe
from hypothesis import given
from hypothesis import strategies as st
from jpeg_build.build import build
from jpeg_build.build.request import Request
from jpeg_build.build.up_to_date import is_up_to_date
from jpeg_build.errors import CallError, RepositoryError
from jpeg_build.recipe.recipe import load_recipe
from jpeg_build.repository.combine import combine
from jpeg_build.repository.remove import remove
from jpeg_build.repository.use import Trial, try_beside, use
from jpeg_contract.forms import FORMS, form_of_model
from jpeg_contract.model_config import chosen_classifier, maker, parameters, read, route_of
from jpeg_contract.model_names import ModelNames, ensemble_of, is_postprocess, is_preprocess, why_no_ensemble
from jpeg_contract.routes import Route, Target
from jpeg_runtime.routing import Comparison, Share, compare
from jpeg_serve.check import check_repository
from jpeg_serve.models import loaded_by_name, read_models

CATS = {"tabby": RGB["red"], "siamese": RGB["white"]}
DOGS = {"poodle": RGB["green"], "husky": RGB["blue"], "pug": RGB["red"]}


def put(root, recipe, ensemble="jpeg_classifier", **more):
    request = Request(load_recipe(recipe), root, ensemble=ensemble, **more)
    build(request, lambda line: None)
    return request


def config(root, model):
    return read(root / model / "config.pbtxt")


def tree(root):
    """Return what lies in a folder: each file's content."""
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def step(root, ensemble, output):
    return maker(config(root, ensemble), output)


@pytest.fixture
def root(tmp_path):
    """A repository with the ensembles jpeg_classifier and cats, of one geometry."""
    folder = tmp_path / "model_repository"
    put(folder, colour_recipe(tmp_path, "dogs", DOGS))
    put(folder, colour_recipe(tmp_path, "cats", CATS), "cats")
    return folder


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,30}", fullmatch=True))
def test_steps_are_those_of_their_ensemble(name):
    if why_no_ensemble(name):
        assert is_preprocess(name) or is_postprocess(name) or "classifier_" in name
        return
    names = ModelNames(name)
    assert ensemble_of(names.preprocess) == ensemble_of(names.postprocess) == name
    for form in FORMS.values():
        found = form_of_model(form.of(name).model)
        assert found == form.of(name)


@pytest.mark.parametrize(
    "name", ["preprocess", "cats_postprocess", "classifier_onnx", "cats_classifier_onnx", "a.b", ""]
)
def test_names_of_steps_are_refused_for_an_ensemble(name):
    with pytest.raises(ValueError, match="name"):
        ModelNames(name)


def test_two_models_of_one_geometry_share_what_decodes(root):
    assert step(root, "cats", "PIXELS") == step(root, "jpeg_classifier", "PIXELS") == "preprocess"
    assert not (root / "cats_preprocess").exists()
    assert (root / "cats_postprocess" / "labels.txt").read_text() == "tabby\nsiamese\n"
    assert chosen_classifier(config(root, "cats")) == "cats_classifier_onnx"
    assert check_repository(root) == []


def test_models_of_two_geometries_decode_each_for_itself(root, tmp_path):
    put(root, colour_recipe(tmp_path, "large", DOGS, size=48), "large")
    assert step(root, "large", "PIXELS") == "large_preprocess"
    assert parameters(config(root, "large_preprocess"))["crop_size"] == "48,48"
    assert check_repository(root) == []


def test_a_model_whose_geometry_changes_leaves_the_others_what_they_need(root, tmp_path):
    before = parameters(config(root, "preprocess"))
    put(root, colour_recipe(tmp_path, "dogs", DOGS, size=48))
    assert step(root, "jpeg_classifier", "PIXELS") == "preprocess"
    assert parameters(config(root, "preprocess"))["crop_size"] == "48,48"
    assert step(root, "cats", "PIXELS") == "cats_preprocess"
    assert parameters(config(root, "cats_preprocess")) == before
    assert check_repository(root) == []


def test_a_guest_whose_geometry_changes_gets_a_model_of_its_own(root, tmp_path):
    put(root, colour_recipe(tmp_path, "cats", CATS, size=48), "cats")
    assert step(root, "cats", "PIXELS") == "cats_preprocess"
    assert parameters(config(root, "preprocess"))["crop_size"] == "32,32"
    assert check_repository(root) == []


def test_formats_decide_whether_two_models_share(root, tmp_path):
    put(root, colour_recipe(tmp_path, "png", CATS, more='formats = ["jpeg", "png"]'), "png")
    assert step(root, "png", "PIXELS") == "png_preprocess"


def test_a_rebuild_finds_what_is_there(root, tmp_path):
    for name, ensemble in (("dogs", "jpeg_classifier"), ("cats", "cats")):
        assert is_up_to_date(Request(load_recipe(tmp_path / f"{name}.toml"), root, ensemble=ensemble))
    assert not is_up_to_date(Request(load_recipe(tmp_path / "dogs.toml"), root, ensemble="cats"))
    before = tree(root)
    put(root, tmp_path / "cats.toml", "cats")
    assert tree(root) == before


def test_a_swap_changes_one_ensemble_only(root, tmp_path):
    put(root, tmp_path / "cats.toml", "cats", backend="openvino")
    use(root, FORMS["openvino"].of("cats"), None)
    assert chosen_classifier(config(root, "cats")) == "cats_classifier_openvino"
    assert chosen_classifier(config(root, "jpeg_classifier")) == "classifier_onnx"
    assert check_repository(root) == []


def test_a_model_that_is_not_built_is_reported_with_its_own_command(root):
    with pytest.raises(RepositoryError) as caught:
        use(root, FORMS["openvino"].of("cats"), None)
    assert caught.value.reason == "not_built"
    assert "--backend openvino --name cats" in str(caught.value)


def test_removing_a_model_leaves_what_others_use(root, tmp_path):
    lines = remove(root, "jpeg_classifier")
    left = sorted(path.name for path in root.iterdir() if path.is_dir())
    assert left == ["cats", "cats_classifier_onnx", "cats_postprocess", "preprocess"]
    assert any("preprocess stays" in line for line in lines)
    assert check_repository(root) == []
    remove(root, "cats")
    assert [path.name for path in root.iterdir() if path.is_dir()] == ["preprocess"]


def test_what_is_not_there_cannot_be_removed(root):
    before = tree(root)
    for name in ("birds", "preprocess", "cats_classifier_onnx"):
        with pytest.raises(RepositoryError) as caught:
            remove(root, name)
        assert caught.value.reason == "unknown_model"
    assert tree(root) == before


def test_two_networks_on_one_decoded_image(root, tmp_path):
    combine(root, ModelNames("both"), ["jpeg_classifier", "cats"])
    both = config(root, "both")
    steps = [each.model_name for each in both.ensemble_scheduling.step]
    assert steps == ["preprocess", "classifier_onnx", "postprocess", "cats_classifier_onnx", "cats_postprocess"]
    assert {"LABEL", "cats_LABEL"} <= {tensor.name for tensor in both.output}
    assert check_repository(root) == []
    with pytest.raises(RepositoryError) as caught:
        combine(root, ModelNames("both"), ["jpeg_classifier", "cats"])
    assert caught.value.reason == "model_exists"
    put(root, colour_recipe(tmp_path, "large", DOGS, size=48), "large")
    for members, reason in ((["cats", "large"], "pixels_differ"), (["cats", "birds"], "unknown_model")):
        with pytest.raises(RepositoryError) as caught:
            combine(root, ModelNames("other"), members)
        assert caught.value.reason == reason
    # Its steps are in use.
    assert any("stays" in line for line in remove(root, "cats"))
    assert check_repository(root) == []


TURNED = dict(zip(DOGS, [*list(DOGS.values())[1:], DOGS["poodle"]], strict=True))
"""The labels of the dogs, each with the colour of the next one: those of a network that was trained again."""


def second_version(root, tmp_path, name="dogs", **more):
    """Build another network with the labels and pixels of the first one."""
    return put(root, colour_recipe(tmp_path, name, TURNED), version=2, **more)


def primary_of(root):
    route = route_of(config(root, "router"))
    assert route is not None
    return route.primary


def version_of(root, model):
    return list(config(root, model).version_policy.specific.versions)


def test_a_trial_between_two_forms_and_its_end(root, tmp_path):
    put(root, tmp_path / "dogs.toml", backend="openvino")
    before = tree(root)
    try_beside(root, FORMS["openvino"], None, Trial("split", 10))
    assert chosen_classifier(config(root, "jpeg_classifier")) == "router"
    route = route_of(config(root, "router"))
    assert route == Route("split", 10, Target("classifier_onnx", 1), Target("classifier_openvino", 1))
    assert check_repository(root) == []
    assert loaded_by_name(read_models(root)[0]) == ["cats", "jpeg_classifier", "classifier_onnx", "classifier_openvino"]
    # Another share of the same two.
    try_beside(root, FORMS["openvino"], None, Trial("shadow", 50))
    assert route_of(config(root, "router")) == Route("shadow", 50, route.primary, route.candidate)
    use(root, FORMS["onnx"], None)
    assert check_repository(root) == []
    assert not (root / "router").exists()
    for model in ("classifier_onnx", "classifier_openvino"):
        assert version_of(root, model) == [1]
    changed = {path for path, content in tree(root).items() if before.get(path) != content}
    assert {path.parent.name for path in changed} <= {"classifier_onnx", "classifier_openvino"}


def changed_models(before, root):
    after = tree(root)
    return {path.parts[0] for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


@pytest.mark.parametrize("more", [{"backend": "openvino"}, {"version": 2}], ids=["form", "version"])
def test_a_retrained_network_of_another_recipe_leaves_the_steps_around_it_as_they_are(root, tmp_path, more):
    before = tree(root)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    again = put(root, colour_recipe(tmp_path, "retrained", TURNED), **more)
    model = again.form.model
    assert changed_models(before, root) == {model}
    # Triton loads a model again whose files look new.
    assert {path for path, time in times.items() if path.stat().st_mtime_ns != time} <= {root / model / "config.pbtxt"}
    assert is_up_to_date(again)
    assert is_up_to_date(Request(load_recipe(tmp_path / "dogs.toml"), root, version=1))
    version = str(more.get("version", 1))
    for mode in ("shadow", "split"):
        try_beside(root, again.form, version, Trial(mode, 50))
        assert check_repository(root) == []
        assert primary_of(root) == Target("classifier_onnx", 1)
    use(root, again.form, version)
    assert check_repository(root) == []
    use(root, FORMS["onnx"], "1")
    assert check_repository(root) == []
    # What is left is as if nothing had been built.
    assert changed_models(before, root) - {model} <= {"classifier_onnx"}


def test_a_step_follows_the_recipe_that_changes_what_it_makes(root, tmp_path):
    """Other labels, the same pixels: the model that decodes stays."""
    before = tree(root)
    put(root, colour_recipe(tmp_path, "more", {**DOGS, "beagle": RGB["white"]}))
    assert changed_models(before, root) == {"classifier_onnx", "postprocess"}
    assert parameters(config(root, "postprocess"))["recipe"] == "more"
    assert check_repository(root) == []
    # Other pixels, the same labels.
    before = tree(root)
    put(root, colour_recipe(tmp_path, "large", {**DOGS, "beagle": RGB["white"]}, size=48), backend="openvino")
    assert {"preprocess", "classifier_openvino"} <= changed_models(before, root)
    assert "postprocess" not in changed_models(before, root)
    (problem,) = check_repository(root, load=["jpeg_classifier"])
    assert problem.reason == "recipe_mismatch"
    assert "jpeg-build use openvino" in problem.message
    with pytest.raises(RepositoryError) as caught:
        try_beside(root, FORMS["openvino"], None, Trial("split", 10))
    assert caught.value.reason == "recipe_differs"
    use(root, FORMS["openvino"], None)
    assert check_repository(root) == []
    with pytest.raises(RepositoryError) as caught:
        use(root, FORMS["onnx"], None)
    assert caught.value.reason == "recipe_differs"


def test_a_new_version_serves_once_it_is_chosen(root, tmp_path):
    second_version(root, tmp_path)
    assert version_of(root, "classifier_onnx") == [1]
    assert check_repository(root) == []
    try_beside(root, FORMS["onnx"], "2", Trial("shadow", 100))
    assert primary_of(root) == Target("classifier_onnx", 1)
    use(root, FORMS["onnx"], "2")
    assert version_of(root, "classifier_onnx") == [2]
    # Whoever chose the newest gets the newest.
    use(root, FORMS["onnx"], "newest")
    put(root, tmp_path / "dogs.toml", version=3)
    assert version_of(root, "classifier_onnx") == []
    with pytest.raises(CallError) as refused:
        try_beside(root, FORMS["onnx"], "3", Trial("shadow", 100))
    assert "jpeg-build use onnx --version 2" in str(refused.value)


def test_a_new_version_serves_at_once_where_the_old_one_cannot(root, tmp_path):
    put(root, colour_recipe(tmp_path, "more", {**DOGS, "beagle": RGB["white"]}), version=2)
    assert version_of(root, "classifier_onnx") == []
    assert check_repository(root) == []


def test_a_trial_between_two_versions(root, tmp_path):
    second_version(root, tmp_path)
    with pytest.raises(CallError):
        try_beside(root, FORMS["onnx"], "1", Trial("split", 10))
    try_beside(root, FORMS["onnx"], None, Trial("split", 10))
    assert route_of(config(root, "router")) == Route(
        "split", 10, Target("classifier_onnx", 1), Target("classifier_onnx", 2)
    )
    assert version_of(root, "classifier_onnx") == [1, 2]
    assert check_repository(root) == []
    use(root, FORMS["onnx"], None)
    assert version_of(root, "classifier_onnx") == [1]
    try_beside(root, FORMS["onnx"], "2", Trial("split", 10))
    use(root, FORMS["onnx"], "2")
    assert version_of(root, "classifier_onnx") == [2]
    assert not (root / "router").exists()


def test_a_chosen_version_says_which_other_model_changes_with_it(root, tmp_path):
    second_version(root, tmp_path)
    assert not any("both" in line for line in use(root, FORMS["onnx"], "2"))
    combine(root, ModelNames("both"), ["jpeg_classifier", "cats"])
    assert any("both" in line for line in use(root, FORMS["onnx"], "1"))


def test_a_version_is_not_tried_where_another_model_would_get_it(root, tmp_path):
    """Triton gives a step without a version the newest that is loaded."""
    combine(root, ModelNames("both"), ["jpeg_classifier", "cats"])
    second_version(root, tmp_path)
    before = tree(root)
    with pytest.raises(RepositoryError) as caught:
        try_beside(root, FORMS["onnx"], "2", Trial("shadow", 10))
    assert caught.value.reason == "in_use"
    assert "both" in str(caught.value)
    assert tree(root) == before
    put(root, colour_recipe(tmp_path, "retrained", TURNED), backend="openvino")
    try_beside(root, FORMS["openvino"], None, Trial("shadow", 10))
    assert check_repository(root) == []


def test_a_trial_needs_a_classifier_of_the_same_recipe(root, tmp_path):
    with pytest.raises(RepositoryError) as caught:
        try_beside(root, FORMS["openvino"], None, Trial("split", 10))
    assert caught.value.reason == "not_built"
    put(root, tmp_path / "dogs.toml", backend="openvino")
    colour_recipe(tmp_path, "dogs", {**DOGS, "beagle": RGB["white"]})
    put(root, tmp_path / "dogs.toml")
    before = tree(root)
    with pytest.raises(RepositoryError) as caught:
        try_beside(root, FORMS["openvino"], None, Trial("split", 10))
    assert caught.value.reason == "recipe_differs"
    assert tree(root) == before


def test_a_route_that_cannot_be_served_is_found(root, tmp_path):
    put(root, tmp_path / "dogs.toml", backend="openvino")
    try_beside(root, FORMS["openvino"], None, Trial("split", 10))
    text = (root / "router" / "config.pbtxt").read_text()
    for old, new, reason in (
        ('"classifier_openvino"', '"classifier_tensorrt"', "step_unknown"),
        (
            '"candidate_version"\n  value {\n    string_value: "1"',
            '"candidate_version"\n  value {\n    string_value: "7"',
            "step_version",
        ),
        ('"10"', '"0"', "invalid_setting"),
        ('"split"', '"both"', "invalid_setting"),
    ):
        assert old in text
        (root / "router" / "config.pbtxt").write_text(text.replace(old, new))
        assert reason in {problem.reason for problem in check_repository(root)}, new


@given(st.floats(0.5, 100), st.integers(1, 1000))
def test_a_share_is_exact_and_even(percent, count):
    share = Share(percent)
    taken = [share.take() for _ in range(count)]
    assert sum(taken) == int(count * percent / 100)
    gaps = [sum(taken[: at + 1]) - (at + 1) * percent / 100 for at in range(count)]
    assert all(-1 - 1e-6 < gap < 1 for gap in gaps)


def test_best_classes_are_compared():
    primary = np.array([[1, 2], [3, 0], [0, 1]], np.float32)
    assert compare(primary, primary[:, ::-1]) == Comparison(0, 3)
    assert compare(primary, primary * 5) == Comparison(3, 0)
    assert compare(np.array([[1.0], [-1.0]], np.float32), np.array([[0.1], [2.0]], np.float32)) == Comparison(1, 1)


def test_a_step_of_other_labels_is_found_in_each_ensemble(root, tmp_path):
    put(root, colour_recipe(tmp_path, "birds", {"wren": RGB["red"], "robin": RGB["blue"]}), "birds")
    text = (root / "cats" / "config.pbtxt").read_text()
    (root / "cats" / "config.pbtxt").write_text(text.replace("cats_classifier_onnx", "birds_classifier_onnx"))
    (problem,) = check_repository(root)
    assert (problem.where, problem.reason) == ("cats/config.pbtxt", "recipe_mismatch")
    assert "--name cats" in problem.message
