"""External models, which are not part of the zoo, by the argument of --model.

``package.module:factory``  your own function: ``factory(res)`` returns a network called as (x, t, y)
``NAME``                    the same, registered as an entry point of that name in the group ``convbench.models``
``timm:NAME``               a classifier of timm, with random weights: images in, no t and no y
``diffusers:FILE.json``     a diffusers model from its config: 2-D U-Nets and class-conditional transformers

A factory may describe the inputs of its network in a dictionary, ``factory.inputs``: the fields of
``catalogue.Signature``, and ``res_multiple``. The defaults are those of the usual latent models: 4 channels, 8 image
pixels per latent pixel, 1000 classes. Nothing here imports torch until a model is requested.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import packages
from ..errors import UsageError
from ..files import read_json
from .families import Family, Signature, Variant

if TYPE_CHECKING:
    from torch import Tensor

GROUP = "convbench.models"
MAX_CONFIG_BYTES = 2**20
IMAGES = {"channels": 3, "factor": 1, "takes": ("x",), "predicts": "logits"}


def registered_names() -> list[str]:
    """List the models that installed packages register as entry points, without importing them."""
    return sorted(point.name for point in entry_points(group=GROUP))


@cache
def variant_of(id: str) -> Variant | None:
    """Build the variant of an external id; None if the id is not external. Raises UsageError if the model fails."""
    source, _, rest = id.partition(":")
    points = {point.name: point for point in entry_points(group=GROUP)}
    if id in points:
        return _of_factory(id, packages.loaded(id, "model", points[id].load))
    if not rest:
        return None
    if source in ("timm", "diffusers"):
        return (_of_timm if source == "timm" else _of_diffusers)(id, rest)
    factory = packages.named(id, "model")

    def build(res: int) -> Any:
        with packages.working_folder():  # the function may import further modules
            return factory(res)

    return _of_factory(id, factory, build if callable(factory) else factory)


@dataclass(frozen=True)
class WrappedNetwork:
    """A network with a separate function (x, t, y) -> output that calls it."""

    network: Any
    step: Callable[..., Any]


def _of_factory(id: str, declared: Any, factory: Any = None, **known: Any) -> Variant:
    """Build the variant of a factory.

    Args:
        declared: callable with the attribute ``inputs``; also the factory, unless one is given.
    """
    factory = factory or declared
    if not callable(factory):
        kind = type(factory).__name__
        raise UsageError(f"'{id}' is a {kind}, not a function that takes a resolution and returns a network")
    inputs = {**getattr(declared, "inputs", {}), **known}
    multiple = inputs.pop("res_multiple", inputs.get("factor", Signature.factor))
    try:
        signature = Signature(**inputs)
    except TypeError as error:
        fields = ", ".join(Signature.__dataclass_fields__)
        raise UsageError(f"'{id}' declares unknown inputs ({error}); the known ones are {fields}") from None
    facts = {"family": "outside", "source": {"repository": id, "commit": "", "licence": ""}, "arxiv": ""}
    family = Family("outside", facts)
    return Variant(id, id, family, {}, multiple, False, None, None, signature, factory=factory)


def _of_timm(id: str, name: str) -> Variant:
    timm: Any = _needed("timm", id)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UsageError(f"timm has no model '{name}'" + (f": did you mean {' or '.join(near)}?" if near else ""))

    def factory(res: int) -> WrappedNetwork:
        try:
            network = timm.create_model(name, pretrained=False, img_size=res)
        except TypeError:  # fully convolutional: takes no size
            network = timm.create_model(name, pretrained=False)
        return WrappedNetwork(network, lambda x, t, y: network(x))

    return _of_factory(id, factory, **IMAGES)


def _of_diffusers(id: str, path: str) -> Variant:
    diffusers: Any = _needed("diffusers", id)
    try:
        config = read_json(Path(path), MAX_CONFIG_BYTES)
        kind = getattr(diffusers, config["_class_name"])
        if not issubclass(kind, diffusers.ModelMixin):
            raise TypeError(f"{config['_class_name']} is not a model class")
    except (UsageError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not the configuration of a diffusers model: {error}") from None
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
    caption = config.get("cross_attention_dim") if "Condition" in config["_class_name"] else None
    channels = config.get("in_channels", 4)
    second = "class_labels" if classes else "encoder_hidden_states" if caption else None

    def factory(res: int) -> WrappedNetwork:
        network = kind.from_config({**config, "sample_size": res // (1 if channels == 3 else 8)})

        def step(x: "Tensor", t: "Tensor", y: "Tensor") -> "Tensor":
            out: Any = network(x, timestep=t, **({second: y} if second else {}), return_dict=False)
            return out[0]

        return WrappedNetwork(network, step)

    return _of_factory(
        id,
        factory,
        channels=channels,
        factor=1 if channels == 3 else 8,
        classes=classes or 1000,
        null_class=False,
        caption=(77, caption) if second == "encoder_hidden_states" else None,
        takes=("x", "t", "y") if second else ("x", "t"),
    )


def _needed(package: str, id: str) -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise UsageError(f"--model {id} needs a package: pip install {package}") from None
