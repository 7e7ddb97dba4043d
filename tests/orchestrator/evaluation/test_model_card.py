"""The model card; the hub's own library reads its metadata."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from models import FENetConfig, LossConfig
from models.config import LossTermConfig
from orchestrator.evaluation.model_card import CardOptions, is_edited, model_card, without_folder
from orchestrator.evaluation.recorded_scores import RecordedScores
from orchestrator.evaluation.trained_model import TrainedModel
from orchestrator.tracking.runs import TrialRun
from pipelines.config import load_yaml
from pipelines.data.config import DataConfig
from pipelines.data.image_format import ImageFormat
from pipelines.data.manifest import ClassInfo
from pipelines.model_directory import ClassList
from pipelines.network.config import NetworkConfig
from pipelines.training.config import LayerDecay, OptimizerConfig, TrainingConfig
from pipelines.training.experiment import Experiment

FINGERPRINT = "f" * 64
CLASSES = (ClassInfo("road", (0, 0, 0)), ClassInfo("sky | <b>cloud</b>", (255, 0, 0)))
MODEL = TrainedModel(
    "runs:/1/model",
    "1",
    "last",
    Experiment(
        data=DataConfig("/home/somebody/private/cityscapes", crop=(512, 1024)),
        model=FENetConfig("resnet18", supervision=(3, 4)),
        training=TrainingConfig(epochs=60, backbone_weights="s3://secret-bucket/r18.safetensors"),
        seed=7,
    ),
    ClassList("cityscapes", FINGERPRINT, 255, CLASSES),
    torch.nn.Conv2d(3, 2, 1),
)
RUN = TrialRun(
    run_id="0123abc",
    study="ablations",
    identity="",
    status="FINISHED",
    code="c0de",
    epoch=60,
    metrics={},
    labeled_name="FENet (all), seed 7",
    data_warnings=("train and val share 2 images",),
    digests=("d1935", None),
)
SCORES = [
    RecordedScores(
        "",
        FINGERPRINT,
        "val",
        "whole",
        500,
        {"miou": 0.798, "dice": 0.88, "pixel_accuracy": 0.96, "boundary_f": 0.7, "iou/road": 0.98},
    ),
    RecordedScores("ms-flip", "e" * 64, "test", "whole_flip", None, {"miou": 0.805}),
]
FILES = {"torch": "model.pt2", "onnx": "model.onnx", "safetensors": "model.safetensors"}
OPTIONS = CardOptions("fenet", FILES, "user/fenet", "apache-2.0")


def test_metadata_holds_the_scores() -> None:
    classes_only = RecordedScores("slid", FINGERPRINT, "val", "slide", 9, {"iou/road": 0.5})
    text = model_card(MODEL, RUN, [*SCORES, classes_only], OPTIONS)
    data = ModelCard(text).data
    assert (data.library_name, data.license) == ("segmentation-orchestrator", "apache-2.0")
    assert (data.pipeline_tag, data.datasets) == ("image-segmentation", ["cityscapes"])
    assert data.tags == ["semantic-segmentation", "pytorch", "onnx"]
    (index,) = load_yaml(text.split("---\n")[1])["model-index"]
    assert [len(each["metrics"]) for each in index["results"]] == [4, 1]
    name, results = model_index_to_eval_results([index])
    assert name == "fenet"
    assert [(each.metric_type, each.metric_value) for each in results] == [
        ("mean_iou", 0.798),
        ("dice", 0.88),
        ("accuracy", 0.96),
        ("boundary_f", 0.7),
        ("mean_iou", 0.805),
    ]
    first, *_, last = results
    assert (first.dataset_name, first.dataset_split, first.dataset_config) == (
        "cityscapes",
        "val",
        None,
    )
    assert first.dataset_args == {"images": 500, "fingerprint": FINGERPRINT, "protocol": "whole"}
    assert (last.dataset_name, last.dataset_split, last.dataset_config) == (
        "e" * 12,
        "test",
        "ms-flip",
    )


def test_text_says_what_was_trained_and_how_to_use_it() -> None:
    text = model_card(MODEL, RUN, SCORES, OPTIONS)
    page = MarkdownIt("commonmark").enable("table").render(ModelCard(text).text)
    for row in (
        ("cityscapes val", "validation", "whole", "500", "79.80", "88.00", "96.00", "0.7"),
        ("e" * 12 + " test", "ms-flip", "whole_flip", "?", "80.50", "", "", ""),
        ("0", "road", "98.00"),
        ("1", "sky | &lt;b&gt;cloud&lt;/b&gt;", ""),
        ("trial", "FENet (all), seed 7"),
        ("network", "FENet on resnet18, flows: detail, semantic, 0.00 M parameters"),
        ("fingerprint of the data", FINGERPRINT),
        ("crop", "512 x 1024"),
        ("length", "60 epochs (60 epochs trained)"),
        ("seed", "7"),
        ("initial weights, backbone", "r18.safetensors (d1935)"),
        ("code version of the training", "c0de"),
    ):
        assert "\n".join(["<tr>", *(f"<td>{cell}</td>" for cell in row), "</tr>"]) in page, row
    for part in (
        "hf download user/fenet --local-dir fenet",
        "orchestrator predict fenet image.png --out predicted",
        "onnxruntime.InferenceSession('fenet/model.onnx')",
        "It is one training with one seed.",
        "This is the last checkpoint of the training",
        "train and val share 2 images",
    ):
        assert part in text, part
    assert not [word for word in ("somebody", "secret-bucket") if word in text]


def test_card_of_a_directory_has_no_scores() -> None:
    images = ImageFormat(4, 16, mean=(0.5,) * 4, std=(0.5,) * 4)
    model = replace(
        MODEL,
        run_id=None,
        checkpoint="model",
        imports=("own.heads",),
        experiment=replace(MODEL.experiment, model=NetworkConfig("own.heads:Net")),
        class_list=replace(MODEL.class_list, dataset="orchard", images=images),
    )
    text = model_card(model, None, [], CardOptions("my folder", {"safetensors": "x"}))
    assert ModelCard(text).data.to_dict() == {
        "library_name": "segmentation-orchestrator",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "pytorch"],
    }
    assert "No scores are recorded" in text
    assert "predict . image.png --out predicted --import own.heads" in text
    assert "The weights need these modules, which are not in this folder: own.heads." in text
    assert "onnxruntime" not in text
    assert "| 1 | sky" in text


@pytest.mark.parametrize(("split", "trained"), [("train", False), ("train+val", True)])
def test_card_says_whether_the_scored_images_were_trained_on(split: str, trained: bool) -> None:
    data = replace(MODEL.experiment.data, train_split=split)
    model = replace(MODEL, experiment=replace(MODEL.experiment, data=data))
    text = model_card(model, RUN, SCORES, OPTIONS)
    assert ("was also trained on" in text) == trained
    assert ("was not trained on, but settings may have been chosen" in text) != trained


@pytest.mark.parametrize("checkpoint", ["last", "best", "model"])
def test_card_says_how_its_checkpoint_was_selected(checkpoint: str) -> None:
    text = model_card(replace(MODEL, checkpoint=checkpoint), RUN, [], OPTIONS)
    assert ("selected as the best on the validation split" in text) == (checkpoint == "best")


@pytest.mark.parametrize("name", ["models:/ablations@best", "models:/ablations/1", "runs:/1/model"])
def test_card_says_that_its_training_was_selected(name: str) -> None:
    text = model_card(replace(MODEL, name=name), RUN, SCORES, OPTIONS)
    assert ("selected among those of its study" in text) == (name == "models:/ablations@best")


def test_parameters_are_those_of_the_table() -> None:
    network = torch.nn.ModuleDict(
        {"head": torch.nn.Linear(1000, 3000), "auxiliary": torch.nn.Linear(1000, 1000)}
    )
    text = model_card(replace(MODEL, network=network), RUN, SCORES, OPTIONS)
    assert "3.00 M parameters" in text


def test_card_names_the_parts_of_the_optimization() -> None:
    training = replace(
        MODEL.experiment.training,
        ema=0.99,
        loss=LossConfig(terms=(LossTermConfig("dice", weight=0.5), "cross-entropy")),
        optimizer=OptimizerConfig(
            "adamw",
            no_decay=("norm",),
            rate_factors={"backbone.*": 0.1},
            layer_decay=LayerDecay(0.9, ("backbone.#.*",)),
        ),
    )
    model = replace(MODEL, experiment=replace(MODEL.experiment, training=training))
    lines = model_card(model, RUN, SCORES, OPTIONS).splitlines()
    for line in (
        "| loss | 0.5 x dice, cross-entropy |",
        "| parameter groups | no decay of norm, backbone.*: 0.1 times the rate, layer decay 0.9 |",
        "| weights | exponential moving average, decay 0.99 |",
    ):
        assert line in lines


def test_card_of_a_training_of_steps_has_its_steps_and_size() -> None:
    training = replace(MODEL.experiment.training, epochs=None, steps=900)
    model = replace(
        MODEL,
        experiment=replace(MODEL.experiment, training=training),
        network=torch.nn.Linear(1000, 1999, bias=False),
    )
    text = model_card(model, RUN, [], OPTIONS)
    assert "| length | 900 steps (60 epochs trained) |" in text
    assert "flows: detail, semantic, 2.00 M parameters" in text


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"status": "FAILED"}, "is not finished: the state of its run is FAILED"),
        ({"status": "FAILED", "stopped_early": True}, "early stopping of a search ended its train"),
        ({}, None),
    ],
)
def test_card_says_that_a_training_was_not_finished(
    state: dict[str, Any], message: str | None
) -> None:
    text = model_card(MODEL, replace(RUN, **state), SCORES[1:], OPTIONS)
    found = [line for line in text.splitlines() if "ended its" in line or "not finished" in line]
    assert len(found) == (message is not None)
    assert message is None or message in found[0]
    # Nothing was scored on the validation split.
    assert "validation split" not in text


@pytest.mark.parametrize("channels", [3, 4])
def test_card_has_code_for_images_that_it_can_read(channels: int) -> None:
    images = ImageFormat(channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    model = replace(MODEL, class_list=replace(MODEL.class_list, images=images))
    text = model_card(model, RUN, [], replace(OPTIONS, size=(40, 56)))
    assert ("With onnxruntime, for one image of 40 x 56 pixels:" in text) == (channels == 3)
    assert ("onnxruntime.InferenceSession(" in text) == (channels == 3)


def test_edited_card_is_recognized() -> None:
    text = model_card(MODEL, RUN, SCORES, OPTIONS)
    assert not is_edited(text)
    assert is_edited(text.replace("# fenet", "# FENet"))
    assert is_edited(text + "by hand\n")
    assert is_edited("# Written by hand\n")


@settings(max_examples=25)
@given(st.lists(st.text(min_size=1), min_size=2, max_size=2), st.text(min_size=1))
def test_any_names_are_kept(names: list[str], title: str) -> None:
    """The metadata is the same for readers of YAML 1.1 and 1.2, and the tables keep their form."""
    classes = tuple(ClassInfo(name, (0, 0, 0)) for name in names)
    class_list = replace(MODEL.class_list, dataset=names[0], classes=classes)
    scores = [replace(SCORES[0], name=names[1], split=names[0]), SCORES[1]]
    model = replace(MODEL, class_list=class_list)
    text = model_card(model, RUN, scores, replace(OPTIONS, name=title))
    card = ModelCard(text)
    block = text.split("---\n", 1)[1].removesuffix(card.text).removesuffix("---\n")
    index = card.data.to_dict()["model-index"]
    assert index == load_yaml(block)["model-index"]
    assert index[0]["name"] == title
    assert index[0]["results"][0]["dataset"]["type"] == names[0]
    page = MarkdownIt("commonmark").enable("table").render(card.text)
    assert page.count("<tbody>") == 4
    assert page.count("<h2>") == 5
    assert not is_edited(text)


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/home/somebody/r18.safetensors", "r18.safetensors"),
        ("s3://bucket/models/last/", "last"),
        ("runs:/0123/best", "runs:/0123/best"),
        ("hf:facebook/convnext-tiny-224", "hf:facebook/convnext-tiny-224"),
        ("csail", "csail"),
    ],
)
def test_locations_are_shown_without_folders(location: str, shown: str) -> None:
    assert without_folder(location) == shown
