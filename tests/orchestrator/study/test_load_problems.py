"""Problems of study files: each with its location, all of them together."""

from pathlib import Path

import pytest

from tests.support.study_files import RECIPE, STUDY, problems


def test_problems_of_all_files_are_reported_together(tmp_path: Path) -> None:
    files = {
        "first.yaml": "base:\n  training: {epoch: 1, batch: none}\n  data: {crop: 3}\n",
        "second.yaml": "extends: first.yaml\n",
        "study.yaml": "study: a\nextends: [second.yaml]\nvariants: {b: {sett: 1}}\ncompare_to: c\n",
    }
    assert [problem.split(":", 3)[:3] for problem in problems(tmp_path, files)] == [
        ["first.yaml", "2", "14"],
        ["first.yaml", "2", "24"],
        ["first.yaml", "3", "10"],
        ["study.yaml", "3", "16"],
        ["study.yaml", "4", "1"],
    ]


def test_problems_of_all_kinds_are_reported_together(tmp_path: Path) -> None:
    text = """\
study: a/b
study: c
base: {data: {crop: [100]}, training: {epochs: 0, lr: 3, momentum: .inf}}
variants:
  x: {sett: 1}
  y: 3
  z: {reference: {miou: 0.5}}
  w: null
  Z: {label: x}
grid: {a.b: [1]}
seeds: [0, 0]
compare_to: v
first: [y]
limits: {gpu_hours: -1}
protocols: {ms: {scales: [0], window: [9]}}
report: {protocol: mss}
"""
    locations = [
        ":".join(each.split(":")[1:3]) for each in problems(tmp_path, {"study.yaml": text})
    ]
    assert locations == [
        *["1:1", "2:1", "3:15", "3:40", "3:51", "3:58", "5:7", "6:3", "7:19", "8:3", "9:3", "9:7"],
        *["10:8", "11:1", "12:1", "14:10", "15:18", "15:31", "16:10"],
    ]


def test_missing_file_does_not_hide_other_problems(tmp_path: Path) -> None:
    text = "study: a\nextends: [no.yaml]\nseed: [1]\nlimits: {gpu_hours: -1}\n"
    text += "variants: {inherited: null}\n"
    reported = problems(tmp_path, {"study.yaml": text})
    assert [":".join(each.split(":")[1:3]) for each in reported] == ["2:11", "3:1", "4:10"]
    reported = problems(tmp_path, {"study.yaml": text.rpartition("variants")[0]})
    assert len(reported) == 3


def test_missing_name_is_reported_with_other_problems(tmp_path: Path) -> None:
    reported = problems(tmp_path, {"study.yaml": "variants: {a: {}}\nseeds: [-1]\n"})
    assert [each.split(": ")[1][:20] for each in reported] == [
        "`study` is missing",
        "a seed must be from ",
    ]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {
                "a.yaml": "extends: b.yaml\n",
                "b.yaml": "extends: c.yaml\n",
                "c.yaml": "study: c\nextends: a.yaml",
            },
            "b.yaml:1:1: `extends` has a cycle: c.yaml -> a.yaml -> b.yaml -> c.yaml",
        ),
        (
            {"a.yaml": "study: a\nextends: a.yaml"},
            "a.yaml:2:1: `extends` has a cycle: a.yaml -> a.yaml",
        ),
        (
            {"recipe.yaml": "", "a.yaml": "study: a\nextends: recpie.yaml"},
            "a.yaml:2:1: `extends` names recpie.yaml, which does not exist; did you mean recipe",
        ),
        (
            {"a.yaml": "study: a\nextends: away/b.yaml"},
            "a.yaml:2:1: `extends` names away/b.yaml, but the directory away does not",
        ),
        (
            {"away/b.yaml": "", "a.yaml": "study: a\nextends: away"},
            "a.yaml:2:1: `extends` names away, which is a",
        ),
        (
            {"a.yaml": f"study: a\nextends: {'b' * 300}.yaml"},
            f"a.yaml:2:1: `extends` names '{'b' * 300}.yaml', which fails: [Errno 36] File name",
        ),
        (
            {"a.yaml": "study: a\nextends: ~nobody-of-this-name/b.yaml"},
            "a.yaml:2:1: `extends` names '~nobody-of-this-name/b.yaml', which fails: Could not",
        ),
        ({"a.yaml": "extends: 3"}, "a.yaml:1:1: `extends` must be a path, or a list of paths"),
        (
            {
                "b.yaml": "variants: {one: {}}",
                "a.yaml": "study: a\nextends: b.yaml\nvariants: {on: null}",
            },
            "a.yaml:3:12: `variants.on` is null, which removes an inherited entry, but no entry of "
            "that name is inherited; did you mean `one`?",
        ),
        ({"b.yaml": "- 3", "a.yaml": "extends: b.yaml"}, "b.yaml:1:1: a study must be a mapping"),
        (
            {"b.yaml": "study: b\nvariants: {c: {}}", "a.yaml": "extends: b.yaml"},
            "a.yaml:1:1: `study` is missing",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_invalid_extends_is_reported(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    (problem,) = problems(tmp_path, files)
    assert problem.startswith(expected)


# Mistakes in a study file, and how their messages begin.
BROKEN = [
    (
        "epochs: 3",
        "epocs: 3",
        "3:46: unknown key `training.epocs`; did you mean `training.epochs`?",
    ),
    (
        "training: {epochs: 3}",
        "epochs: 3",
        "3:35: unknown key `epochs`; did you mean `training.epochs`",
    ),
    ("flows: []", "flows: detail", '7:19: `model.flows` must be a list, received "detail"'),
    ("miou: 70.1", "miou: 0.701", "9:43: `variants.strong.reference.0`: miou must be in percent"),
    (
        "miou: 70.1",
        "mIoU: 70.1",
        "9:43: unknown key `variants.strong.reference.0.mIoU`; did you mean",
    ),
    ("miou: 71.1, ", "", "10:9: `variants.strong.reference.1`: a value is needed: miou"),
    (
        "when: {data.class_uniform: 0.5}, miou: 70",
        "when: {class_uniform: 0.5}, miou: 70",
        "9:17: unknown key `class_uniform`; did you mean `data.class_uniform`?",
    ),
    (
        "when: {data.class_uniform: 0.5}, miou: 70",
        "when: {data.class_uniform: 0.7}, miou: 70",
        "9:10: matches no cell: `data.class_uniform` is 0.7 here, but 0.0 or 0.5 in the study",
    ),
    (
        "when: {data.class_uniform: 0.5}, miou: 70",
        "when: {data: {class_uniform: 0.5}}, miou: 70",
        "9:17: `variants.strong.reference.0.when`: `data` is a group of keys; use a dotted key",
    ),
    ("[0.0, 0.5]", "[0.0, 0.5, 0.5]", "14:39: axis `data.class_uniform` has 0.5 twice"),
    ("[0.0, 0.5]", "[0.0, 1.5]", "14:34: `data`: class_uniform must be a fraction from 0 to 1"),
    (
        "grid: {data.class_u",
        "grid: {data.clas_u",
        "14:8: unknown key `data.clas_uniform`; did you mean",
    ),
    (
        "variant: full",
        "variant: ful",
        '16:10: `when.0.if.variant` is "ful", which is not a variant; did',
    ),
    ("variant: full", "varant: full", "16:10: unknown key `varant`; did you mean `variant`?"),
    ("if: {variant: full}", "if: {}", "16:5: `when.0.if` must be non-empty"),
    (
        "training: {epochs: 3}",
        "training.epochs: 3",
        "3:35: `training.epochs` must be nested here: `training: {epochs: ...}`",
    ),
    ("seeds: [0, 1]", f"seeds: [0, 1, {2**70}]", "20:15: a seed must be from 0 to 2^63"),
    (
        "set: {training: {batch: 2}}",
        "set: {data: {class_uniform: 0.2}}",
        "19:18: `when.1.set` sets `data.class_uniform`, which is an axis of the grid",
    ),
    (
        "set: {training: {batch: 2}}",
        "set: {training: {bach: 2}}",
        "19:22: unknown key `training.bach`",
    ),
    (
        "protocol: flip",
        "protocol: flop",
        "22:10: `report.protocol` is 'flop', which is not a protocol; did",
    ),
    (
        "protocol: flip",
        "columns: [miou, pixel_acuracy]",
        "22:26: `report.columns` has 'pixel_acuracy', which is not a column; did you mean",
    ),
    ("seed: 1}", "seed: 5}", "13:5: `variants.full.entered`: seed 5 is not in `seeds`"),
    ("seeds: [0, 1]", "seeds: [0, 1, -1]", "20:15: a seed must be from 0 to"),
    ("seeds: [0, 1]", "seeds: 3", "20:1: `seeds` must be a list, received 3"),
    ("set: {model: {flows: []}}\n", "set: {seed: 3}\n", "7:11: list seeds under `seeds`"),
    ("study: small", "study: small\nkind: tabel", '2:1: `kind` is "tabel"; did you mean `table`?'),
    (
        "study: small",
        "study: small\nearly_stopping: {}",
        "2:1: `early_stopping` needs `kind: search`, because a table must not compare",
    ),
    (
        "study: small",
        "study: small\nlimits: {trial: 3}",
        "2:10: unknown key `limits.trial`; did you",
    ),
    (
        "study: small",
        "study: small\nfirst: [ful]",
        "2:9: `first` is 'ful', which is not a variant; did you",
    ),
    ("study: small", "study: small\nprofile: {}", "2:1: `profile` needs `kind: profile`"),
    (
        "training: {epochs: 3}}",
        "training: {epochs: 3}, data: {validation_split: null}}",
        "22:10: `report.protocol` is 'flip', but strong, 0.0, seed 0 cannot be scored",
    ),
    (
        "study: small",
        "study: small\nkind: profile",
        "recipe.yaml:10:1: `protocols` needs trained models",
    ),
    (
        "study: small",
        "study: small\nsubmission: {benchmark: citscapes}",
        '2:14: `submission.benchmark` is "citscapes"; did you mean `cityscapes`?',
    ),
    (
        "study: small",
        "study: small\npublished: [{label: X, when: {model.stem: plain}}]",
        "2:31: `published.0.when` has 'model.stem', which is not an axis of the grid",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new", "expected"), BROKEN, ids=[case[1] for case in BROKEN])
def test_invalid_file_gets_one_message(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in STUDY
    text = STUDY.replace(old, new, 1)
    reported = problems(tmp_path, {"recipe.yaml": RECIPE, "study.yaml": text})
    assert len(reported) == 1, reported
    location = expected if expected.startswith("recipe.yaml") else f"study.yaml:{expected}"
    assert reported[0].startswith(location)
