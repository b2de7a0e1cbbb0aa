"""Image classifiers of Hugging Face: folders of transformers and of timm, and what their processors do."""

import json
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
import transformers
from framework_support import (
    check_onnx,
    check_torchscript,
    efficientnet_lite0,
    pixels,
    recipe_of,
    right_of_twenty,
    write_recipe,
)
from jpeg_build.cli import main
from jpeg_build.errors import NetworkError
from jpeg_build.networks.hugging_face_network import HuggingFaceNetwork, draft, preparation
from jpeg_build.networks.load import load_network
from jpeg_build.networks.reference import normalise
from jpeg_build.recipe.recipe import load_recipe
from jpeg_contract.forms import ONNX
from jpeg_preprocess import resize_and_crop
from PIL import Image

# transformers cuts off the smaller half of an odd margin at the left and at the top.
DOWN = {"crop_rounding": "down"}

LABELS = {0: "cat", 1: "dog", 2: "eel", 3: "fox"}


def save_vit(folder, kind="ViTForImageClassification", **changes):
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        **{
            **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48},
            **{"image_size": 64, "patch_size": 16, "id2label": LABELS, "label2id": {v: k for k, v in LABELS.items()}},
            **changes,
        }
    )
    network = getattr(transformers, kind)(config).eval()
    network.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return network


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(recipe, reason, *facts):
    with pytest.raises(NetworkError) as caught:
        HuggingFaceNetwork(recipe)
    assert caught.value.reason == reason, str(caught.value)
    for fact in facts:
        assert fact in str(caught.value)


def test_a_transformer_computes_what_transformers_computes(tmp_path):
    network = save_vit(tmp_path / "vit")
    made = draft(tmp_path / "vit", None)
    assert made.source == {"kind": "hugging_face", "folder": str(tmp_path / "vit")}
    assert (made.name, made.classes, made.labels, made.output) == ("vit", 4, "weights", "softmax")
    assert made.geometry == {"resize_size": [64, 64], "crop_size": 64, "interpolation": "bilinear"}
    assert made.normalisation == {"mean": [0.5] * 3, "std": [0.5] * 3}
    recipe = recipe_of(made, tmp_path)
    loaded = load_network(recipe, ONNX, progress=lambda message: None)
    assert isinstance(loaded, HuggingFaceNetwork)
    assert loaded.labels == ["cat", "dog", "eel", "fox"]
    images = pixels(recipe)
    with torch.inference_mode():
        wanted = network(torch.from_numpy((images / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2).copy())).logits
    assert np.abs(loaded.reference(images) - wanted.numpy()).max() < 1e-4
    check_onnx(loaded, recipe, tmp_path)
    check_torchscript(loaded, recipe, tmp_path)
    check_torchscript(loaded, recipe, tmp_path, "fp16")


def test_several_labels_at_once(tmp_path):
    save_vit(tmp_path / "vit", problem_type="multi_label_classification", dtype=torch.float16)
    made = draft(tmp_path / "vit", None)
    assert made.output == "sigmoid"
    network = HuggingFaceNetwork(recipe_of(made, tmp_path))
    assert network.kind.head == "sigmoid"
    refused(recipe_of(made, tmp_path, output="softmax"), "differs_from_weights", "mine.toml:3: output", '"sigmoid"')


def processor_folder(tmp_path, kind, **values):
    getattr(transformers, kind)(**values).save_pretrained(tmp_path)
    return preparation(tmp_path, {"model_type": "vit"})


@pytest.mark.parametrize(
    ("kind", "values", "geometry", "normalisation"),
    [
        (
            "ConvNextImageProcessor",
            {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
            {"resize_size": 256, "crop_size": 224, "interpolation": "bicubic", **DOWN},
            {"mean": [0.5] * 3, "std": [0.5] * 3},
        ),
        (
            "ConvNextImageProcessor",
            {"size": {"shortest_edge": 192}, "crop_pct": 0.875},
            {"resize_size": 219, "crop_size": 192, "interpolation": "bicubic", **DOWN},
            {"mean": [0.5] * 3, "std": [0.5] * 3},
        ),
        (
            "ConvNextImageProcessor",
            {"size": {"shortest_edge": 384}},
            {"resize_size": [384, 384], "crop_size": 384, "interpolation": "bicubic"},
            {"mean": [0.5] * 3, "std": [0.5] * 3},
        ),
        (
            "BitImageProcessor",
            {"size": {"shortest_edge": 248}, "crop_size": {"height": 224, "width": 224}, "resample": 2},
            {"resize_size": 248, "crop_size": 224, "interpolation": "bilinear", **DOWN},
            {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]},
        ),
        (
            "ViTImageProcessor",
            {"size": {"height": 96, "width": 64}, "do_normalize": False},
            {"resize_size": [96, 64], "crop_size": [96, 64], "interpolation": "bilinear"},
            {"scale": "0..1"},
        ),
        (
            "EfficientNetImageProcessor",
            {
                **{"size": {"height": 80, "width": 80}, "rescale_factor": 1 / 127.5, "rescale_offset": True},
                **{"do_normalize": False, "include_top": False, "resample": 0},
            },
            {"resize_size": [80, 80], "crop_size": 80, "interpolation": "nearest"},
            {"mean": [0.5] * 3, "std": [0.5] * 3},
        ),
        (
            "EfficientNetImageProcessor",
            {"size": {"height": 80, "width": 80}, "image_mean": [0.4] * 3, "image_std": [0.5] * 3, "include_top": True},
            {"resize_size": [80, 80], "crop_size": 80, "interpolation": "bicubic"},
            {"mean": [0.4] * 3, "std": [0.25] * 3},
        ),
        (
            "MobileViTImageProcessor",
            {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}},
            {"resize_size": 72, "crop_size": 64, "interpolation": "bicubic", **DOWN},
            {"scale": "0..1", "color": "BGR"},
        ),
        (
            "LevitImageProcessor",
            {"size": {"shortest_edge": 224}},
            {"resize_size": 256, "crop_size": 224, "interpolation": "bicubic", **DOWN},
            {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        ),
    ],
)
def test_processors(tmp_path, kind, values, geometry, normalisation):
    """What is derived is compared with the processor's own pixels, or there would be none."""
    found, notes = processor_folder(tmp_path, kind, **values)
    assert notes == []
    assert found is not None
    assert found.geometry_table() == geometry
    assert found.normalisation_table() == normalisation


@pytest.mark.parametrize(("width", "height"), [(320, 219), (300, 451), (257, 256)])
def test_a_crop_lies_where_the_processor_has_it(tmp_path, width, height):
    """Odd margins: one of two would be a pixel off if they were rounded as torchvision does."""
    values = {"size": {"shortest_edge": 64}, "crop_size": {"height": 41, "width": 39}, "resample": 3}
    found, _ = processor_folder(tmp_path, "CLIPImageProcessor", **values)
    assert found is not None
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    theirs = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])
    ours = normalise(resize_and_crop(found.geometry, image)[None], found.normalisation)[0].transpose(2, 0, 1)
    assert np.abs(ours - theirs).max() < 2.5 / 255 / min(found.std)


def test_feature_extractors_of_old_versions(tmp_path):
    old = {
        **{"do_normalize": True, "do_resize": True, "feature_extractor_type": "ViTFeatureExtractor", "size": 224},
        **{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    found, _ = preparation(tmp_path, {"model_type": "vit"})
    assert found is not None
    assert found.geometry_table() == {"resize_size": [224, 224], "crop_size": 224, "interpolation": "bilinear"}


def test_a_processor_that_no_recipe_can_state_is_a_note(tmp_path):
    found, notes = processor_folder(tmp_path, "ViTImageProcessor", do_resize=False)
    assert found is None
    assert len(notes) == 1
    found, notes = processor_folder(tmp_path, "DonutImageProcessor", size={"height": 64, "width": 64})
    assert found is None
    assert "recipe cannot state" in notes[0]
    # It raises on every image: it wants the colours of a palette.
    found, notes = processor_folder(tmp_path, "ImageGPTImageProcessor")
    assert found is None
    assert "recipe cannot state" in notes[0]
    (tmp_path / "preprocessor_config.json").unlink()
    found, notes = preparation(tmp_path, {"model_type": "vit", "image_size": 112})
    assert found is None
    assert "image_size = 112" in notes[0]


def test_a_recipe_that_differs_from_the_processor_is_refused(tmp_path):
    save_vit(tmp_path / "vit")
    made = draft(tmp_path / "vit", None)
    assert made.geometry is not None
    wrong: dict[str, Any] = {
        "geometry": {**made.geometry, "interpolation": "bicubic"},
        "normalisation": {"scale": "0..1"},
    }
    facts = ["[geometry] interpolation", 'is "bicubic", the weights have "bilinear"', "mean"]
    refused(recipe_of(made, tmp_path, **wrong), "differs_from_weights", *facts)
    source = {"kind": "hugging_face", "folder": "vit", "differs_from_weights": True}
    assert HuggingFaceNetwork(write_recipe(tmp_path, source, **wrong)).labels[0] == "class 0"
    refused(recipe_of(made, tmp_path, classes=5, labels="labels.txt"), "classes_differ", "set classes = 4")


def test_labels_that_transformers_made_up_are_none(tmp_path):
    save_vit(tmp_path / "vit", id2label={0: "LABEL_0", 1: "LABEL_1"})
    made = draft(tmp_path / "vit", None)
    assert (made.classes, made.labels) == (2, None)
    refused(recipe_of(made, tmp_path, labels="weights"), "no_labels", "mine.toml:2: labels")


def test_pickles_and_code_are_not_read(tmp_path):
    network = save_vit(tmp_path / "vit")
    recipe = recipe_of(draft(tmp_path / "vit", None), tmp_path)
    (tmp_path / "vit" / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "vit" / "pytorch_model.bin")
    refused(recipe, "no_safetensors", "save_pretrained")
    save_vit(tmp_path / "vit")
    code = {"AutoConfig": "mine.Mine", "AutoModelForImageClassification": "mine.Mine"}
    change(tmp_path / "vit" / "config.json", model_type="mine", auto_map=code)
    (tmp_path / "vit" / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refused(recipe, "untrusted_code", 'kind = "module"')
    assert not (tmp_path / "ran").exists()


def test_a_network_without_its_classifying_layer_is_refused(tmp_path):
    save_vit(tmp_path / "vit")
    recipe = recipe_of(draft(tmp_path / "vit", None), tmp_path)
    save_vit(tmp_path / "vit", "ViTModel")
    refused(recipe, "checkpoint_differs", "classifier.weight")


def test_a_configuration_with_another_number_of_classes_than_the_weights(tmp_path):
    save_vit(tmp_path / "vit")
    change(tmp_path / "vit" / "config.json", id2label={"0": "cat", "1": "dog", "2": "eel"})
    facts = ["classifier.weight", "[4, 32]", "[3, 32]", "id2label"]
    refused(recipe_of(draft(tmp_path / "vit", None), tmp_path), "checkpoint_differs", *facts)


def test_weights_that_were_cut_short_are_damaged(tmp_path):
    save_vit(tmp_path / "vit")
    recipe = recipe_of(draft(tmp_path / "vit", None), tmp_path)
    weights = tmp_path / "vit" / "model.safetensors"
    for length in (1000, weights.stat().st_size - 1):
        weights.write_bytes(weights.read_bytes()[:length])
        refused(recipe, "invalid_checkpoint", "model.safetensors: is damaged")


def test_loading_shows_no_bars_of_transformers(tmp_path, capfd):
    save_vit(tmp_path / "vit")
    recipe = recipe_of(draft(tmp_path / "vit", None), tmp_path)
    capfd.readouterr()
    HuggingFaceNetwork(recipe)
    assert capfd.readouterr().err == ""
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_without_a_network_the_error_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    source = {"kind": "hugging_face", "network": "nobody/nothing"}
    refused(write_recipe(tmp_path, source), "weights_not_downloaded", "hf download nobody/nothing", "[source] folder")
    with pytest.raises(NetworkError) as caught:
        draft(None, "nobody/nothing")
    assert caught.value.reason == "weights_not_downloaded"


def in_the_cache(tmp_path, monkeypatch, **revisions):
    """Put a network of the hub into a cache without a network: the number of classes of each revision."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--some--vit"
    (repository / "refs").mkdir(parents=True)
    for number, (name, classes) in enumerate(revisions.items()):
        commit = f"{number}" * 40
        (repository / "refs" / name).write_text(commit)
        labels = {index: f"{name} {index}" for index in range(classes)}
        save_vit(repository / "snapshots" / commit, id2label=labels, label2id={v: k for k, v in labels.items()})


def test_a_revision_of_the_hub_is_that_of_the_draft_too(tmp_path, monkeypatch):
    in_the_cache(tmp_path, monkeypatch, main=4, v2=3)
    monkeypatch.chdir(tmp_path)
    for source, name, classes in (("hf:some/vit", "main", 4), ("hf:some/vit@v2", "v2", 3)):
        assert main(["init", source, "--output", f"{name}.toml"]) == 0
        recipe = load_recipe(tmp_path / f"{name}.toml")
        assert recipe.classes == classes
        assert HuggingFaceNetwork(recipe).labels[0] == f"{name} 0"
    with pytest.raises(NetworkError) as caught:
        draft(None, "some/vit", "v3")
    assert caught.value.reason == "weights_not_downloaded"
    assert "hf download some/vit --revision v3" in str(caught.value)


def test_a_folder_of_timm(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_convnext", num_classes=4).eval()
    timm.models.save_for_hf(
        network,
        str(tmp_path / "mine"),
        model_config={"label_names": ["a", "b", "c", "d"]},
        model_args={"drop_rate": 0.1},
        safe_serialization=True,
    )
    made = draft(tmp_path / "mine", None)
    assert (made.classes, made.labels) == (4, "weights")
    assert made.geometry is not None
    assert made.geometry["crop_size"] == 160
    recipe = recipe_of(made, tmp_path)
    loaded = HuggingFaceNetwork(recipe)
    assert loaded.labels == ["a", "b", "c", "d"]
    assert loaded.weights.sha256 == recipe.source.sha256
    check_onnx(loaded, recipe, tmp_path)
    change(tmp_path / "mine" / "config.json", architecture="hf-hub:nobody/nothing")
    refused(recipe, "unknown_network")


def test_real_weights_classify_photos(tmp_path):
    timm.models.save_for_hf(efficientnet_lite0(), str(tmp_path / "lite0"), safe_serialization=True)
    recipe = recipe_of(draft(tmp_path / "lite0", None), tmp_path)
    network = HuggingFaceNetwork(recipe)
    assert right_of_twenty(network, recipe) >= 17
    assert network.labels[285].startswith("Egyptian cat")
