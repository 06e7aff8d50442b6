"""Files of WRN-38: strict loading, and the names of the MXNet original."""

from pathlib import Path

import pytest
import torch

from weaksam_d2.backbones import WRN38, wrn38_name, wrn38_state


def saved(path: Path, **changes: torch.Tensor | None) -> str:
    torch.manual_seed(1)
    state = {"module." + name: value for name, value in WRN38(width=1).state_dict().items()}
    state["module.bn8.weight"] = state["module.fc8.weight"] = torch.zeros(3)
    for name, value in changes.items():
        full = "module." + name.replace("__", ".")
        state.pop(full, None)
        if value is not None:
            state[full] = value
    torch.save({"state_dict": state}, path)
    return str(path)


def test_a_file_replaces_everything_and_its_classifier_is_dropped(tmp_path: Path) -> None:
    path = saved(tmp_path / "wrn38.pth")
    torch.manual_seed(2)
    loaded = WRN38(width=1, weights=path)
    stored = torch.load(path, weights_only=True)["state_dict"]
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, stored["module." + name])
    assert not loaded.conv1a.weight.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b4_3__conv_branch2a__weight": None}, "b4_3.conv_branch2a.weight .missing"),
        ({"b9__conv_branch2a__weight": torch.zeros(1)}, "b9.conv_branch2a.weight .unknown"),
        ({"conv1a__weight": torch.zeros(2, 3, 3, 3)}, r"\(2, 3, 3, 3\) instead of \(1, 3, 3, 3\)"),
    ],
)
def test_any_difference_is_an_error(
    changes: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        WRN38(width=1, weights=saved(tmp_path / "wrn38.pth", **changes))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv1a_weight", "conv1a.weight"),
        ("arg:res2a_branch1_weight", "b2.conv_branch1.weight"),
        ("res2b1_branch2a_weight", "b2_1.conv_branch2a.weight"),
        ("res4b5_branch2b1_weight", "b4_5.conv_branch2b1.weight"),
        ("res6a_branch2b2_weight", "b6.conv_branch2b2.weight"),
        ("bn3a_branch2a_gamma", "b3.bn_branch2a.weight"),
        ("bn5b2_branch2b1_beta", "b5_2.bn_branch2b1.bias"),
        ("aux:bn7a_branch2b2_moving_mean", "b7.bn_branch2b2.running_mean"),
        ("bn7_moving_var", "bn7.running_var"),
        ("linear1000_weight", ""),
        ("linear1000_bias", ""),
    ],
)
def test_names_of_mxnet(theirs: str, ours: str) -> None:
    assert wrn38_name(theirs) == ours


@pytest.mark.parametrize(
    "name", ["fc8_weight", "res2a_branch2a_gamma", "bn2a_branch2a_weight", "res2c_branch2a_weight",
             "res2b_branch2a_weight", "res2a1_branch2a_weight"],
)  # fmt: skip
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name.split("_")[0][:4]):
        wrn38_name(name)


def theirs_of(name: str) -> str:
    """The inverse of the rule, written down on its own."""
    unit, *rest = name.split(".")
    fields = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean"}
    if unit in ("conv1a", "bn7"):
        kept = rest[0] if unit == "conv1a" else fields.get(rest[0], "moving_var")
        return f"{unit}_{kept}"
    stage, _, number = unit[1:].partition("_")
    place = stage + (f"b{number}" if number else "a")
    kind, branch = rest[0].split("_", 1)
    if kind == "conv":
        return f"res{place}_{branch}_weight"
    return f"bn{place}_{branch}_{fields.get(rest[1], 'moving_var')}"


def test_a_converted_file_covers_the_network_exactly(tmp_path: Path) -> None:
    own = WRN38(width=1).state_dict()
    theirs = {theirs_of(name): value for name, value in own.items()}
    state = wrn38_state({**theirs, "linear1000_bias": torch.zeros(1000)})
    assert set(state) == set(own)
    torch.save(state, tmp_path / "converted.pth")
    WRN38(width=1, weights=str(tmp_path / "converted.pth"))
    with pytest.raises(ValueError, match="both 'conv1a.weight'"):
        wrn38_state({"conv1a_weight": torch.zeros(1), "arg:conv1a_weight": torch.zeros(1)})
