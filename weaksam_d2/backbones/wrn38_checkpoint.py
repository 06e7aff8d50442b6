"""Weights of WRN-38: published files under their names, and the names of the MXNet original."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from weaksam_d2.weights import resolve_weights

__all__ = ["load_wrn38", "wrn38_name", "wrn38_state"]

# Of the classifiers that the files belong to, or never used: bn8 normalizes nothing.
_DROPPED = ("bn8.", "fc8.", "fc9.", "linear1000.")
_FIELDS = {
    "weight": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
}
_FIELD = f"({'|'.join(_FIELDS)})"
_UNIT = re.compile(rf"(res|bn)(\d)([a-z])(\d*)_(branch\w+?)_{_FIELD}")
_PLAIN = re.compile(rf"(conv1a|bn7)_{_FIELD}")


def load_wrn38(network: nn.Module, weights: str) -> None:
    """Load a file or URL into a network with the names of :class:`WRN38`, all or nothing.

    Heads of classifiers in the file (``fc8``, ``fc9``, ``bn8``) are left out.

    Raises:
        ValueError: missing, further or differently shaped parameters; names the first of them.
    """
    state: Any = torch.load(resolve_weights(weights), map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        state = state.get(key, state)
    given = {
        name.removeprefix("module."): value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
    given = {k: v for k, v in given.items() if not k.startswith(_DROPPED)}
    own = network.state_dict()
    bad = [f"{name} (missing)" for name in own if name not in given]
    bad += [f"{name} (unknown)" for name in given if name not in own]
    bad += [
        f"{name} {tuple(given[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in given and given[name].shape != value.shape
    ]
    if bad:
        raise ValueError(
            f"MODEL.WRN38.WEIGHTS '{weights}' are not those of WRN-38: {len(bad)} parameters "
            f"differ, first {', '.join(bad[:3])}; convert the MXNet file by tools/convert_wrn38.py"
        )
    network.load_state_dict(given)


def wrn38_name(name: str) -> str:
    """Our name of a parameter of the MXNet file ("res4b1_branch2a_weight"); "" for its classifier.

    Raises:
        ValueError: a name that no parameter of the network has.
    """
    plain = name.split(":")[-1]  # "arg:" and "aux:" tell parameters from statistics
    if plain.startswith("linear1000_"):
        return ""
    if match := _PLAIN.fullmatch(plain):
        return f"{match[1]}.{_FIELDS[match[2]]}"
    match = _UNIT.fullmatch(plain)
    if match is None or (match[1] == "res") != (match[6] == "weight"):
        raise ValueError(
            f"'{name}' is no parameter of WRN-38's MXNet file (such as 'conv1a_weight')"
        )
    kind, stage, letter, number, branch, field = match.groups()
    if (letter == "a") != (number == "") or letter not in "ab":
        raise ValueError(f"'{name}' names the unit '{letter}{number}', expected 'a', 'b1', 'b2', …")
    unit = f"b{stage}" if letter == "a" else f"b{stage}_{number}"
    layer = "conv" if kind == "res" else "bn"
    return f"{unit}.{layer}_{branch}.{_FIELDS[field]}"


def wrn38_state(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of the MXNet file under our names, without its classifier.

    Raises:
        ValueError: as :func:`wrn38_name`, or two parameters of one name.
    """
    state: dict[str, Tensor] = {}
    for name, value in parameters.items():
        ours = wrn38_name(name)
        if ours in state:
            raise ValueError(f"'{name}' and another parameter are both '{ours}'")
        if ours:
            state[ours] = value
    return state
