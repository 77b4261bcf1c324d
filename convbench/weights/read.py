"""Strict loading of checkpoints with official keys, without executing code from a file."""

import argparse
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..catalogue import Variant
from ..errors import WeightsError, first_line
from .container import require_plain, require_sane_header, require_sane_size
from .fixed_tables import fixed_tables

# Keys of the state dict in files of training scripts, beside optimiser state and arguments; averaged weights first.
WRAPPERS = ("ema", "ema_state_dict", "model", "state_dict", "model_state_dict", "net")
KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

ShapesByVariant = Callable[[], Mapping[str, Mapping[str, tuple[int, ...]]]]


def load_into(model: nn.Module, path: str, variant: Variant, shapes_by_variant: ShapesByVariant) -> None:
    """Load a .pt or .safetensors file into the model in place. Keys and shapes must match, values must be finite.

    Fixed tables (such as ``pos_embed``) may be absent, as they are computed. Values are cast to the type of the model.
    Raises WeightsError with one line that names the difference and the variant that would match.

    Args:
        shapes_by_variant: returns the shape of every key by variant id; only called to name a matching variant.
    """
    state = read_state_dict(path)
    if convert := getattr(model, "from_official", None):  # the layout for inference differs from that in training
        state = convert(state)
    own, fixed = model.state_dict(), fixed_tables(model)
    missing = [key for key in own if key not in state and key not in fixed]
    unexpected = [key for key in state if key not in own]
    misshaped = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or unexpected or misshaped:
        raise WeightsError(_difference(path, variant, own, state, missing, unexpected, misshaped, shapes_by_variant))
    state = {key: value for key, value in state.items() if own[key].is_floating_point()}  # indices are computed
    for key, value in state.items():
        if value.layout != torch.strided or value.is_meta or value.dtype not in KINDS:
            kind = f"{value.dtype} {value.layout} {value.device}".replace("torch.", "")
            raise WeightsError(
                f"{path} contains tensors that are not plain weights: {key} is {kind}, not floating point"
            )
        if not value.isfinite().all():
            raise WeightsError(f"{path} contains invalid weights: {key} has NaN or infinite values")
    try:
        model.load_state_dict(state, strict=False)  # strict except for the tables, as checked above
    except RuntimeError as error:  # sparse, complex or without storage
        raise WeightsError(f"{path} contains tensors that are not plain weights: {first_line(error)}") from None


def read_state_dict(path: str) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by official key, averaged weights if there are any, without ``module.``."""
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"no checkpoint at {path}")
    require_sane_size(file)
    content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    wrapped = (content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping))
    state = next(filter(None, wrapped), content)
    # Only text keys are printed: printing a deeply nested key may not end.
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor) and isinstance(key, str)}
    if not tensors:
        words = [key[:40] if isinstance(key, str) else f"a {type(key).__name__}" for key in list(content)[:5]]
        found = ", ".join(words) or "nothing"
        raise WeightsError(
            f"{path} contains no tensors under its own keys or under {', '.join(WRAPPERS)} (found: {found})"
        )
    return {_without_prefixes(key): value for key, value in tensors.items()}


def _without_prefixes(key: str) -> str:
    """Remove the prefixes of DistributedDataParallel and torch.compile, in either order."""
    while key.startswith(("module.", "_orig_mod.")):
        key = key.split(".", 1)[1]
    return key


def _read_safetensors(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_sane_header(file)
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is not a readable safetensors file: {first_line(error)}") from None


def _read_pickle(file: Path) -> dict[str, Any]:
    zipped = require_plain(file)
    try:
        # The training scripts of DiT and its descendants also save their parsed arguments, which are plain data.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the protocol of the pickle; real problems are raised
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged file fails inside torch with any error, including IndexError
        if "GLOBAL" in str(error):
            raise WeightsError(
                f"{file} contains more than plain tensors and was not opened, as reading it could execute code: "
                "save the state dict alone, or as .safetensors"
            ) from None
        # For an unreadable pickle, the message of torch advises to load it unsafely.
        broken = isinstance(error, pickle.UnpicklingError)
        reason = "it is truncated, or torch.save did not write it" if broken else first_line(error)
        raise WeightsError(f"{file} is not a readable PyTorch checkpoint: {reason}") from None
    if not isinstance(content, Mapping):
        raise WeightsError(f"{file} contains a {type(content).__name__}, not a state dict")
    return dict(content)


def _difference(
    path: str,
    variant: Variant,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    misshaped: list[str],
    shapes_by_variant: ShapesByVariant,
) -> str:
    if misshaped == ["pos_embed"] and not missing and not unexpected:
        sides = [round(table["pos_embed"].shape[1] ** 0.5) for table in (state, own)]
        found, needed = (f"{side}x{side}" for side in sides)
        return f"{path} was made for a different resolution: a {found} token grid, needs {needed}"
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing (first: {missing[0]})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected (first: {unexpected[0][:80]})")
    if misshaped:
        key = misshaped[0]
        parts.append(
            f"{len(misshaped)} mis-shaped (first: {key} {list(state[key].shape)}, needs {list(own[key].shape)})"
        )
    fits = [id for id, shapes in shapes_by_variant().items() if shapes == shapes_of(state)]
    advice = f"it matches {' or '.join(fits)}" if fits else "it matches no known variant"
    return f"{path} is not a checkpoint of {variant.id}: {'; '.join(parts)}; {advice}"


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """List the shapes of all entries except the table of positions, which depends on the resolution."""
    return {key: tuple(value.shape) for key, value in state.items() if key != "pos_embed"}
