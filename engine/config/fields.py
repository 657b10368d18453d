"""Building blocks of the settings tree: the immutable node, and field types with bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MAX_NAME_BYTES = 255  #: maximum bytes of one path component on all common file systems


def _require_valid_path(path: str) -> str:
    if (
        "\0" in path
        or any(len(name.encode()) > MAX_NAME_BYTES for name in path.split("/"))
        or len(path) > 4000
    ):
        raise ValueError("this is not a valid file name")
    if path.startswith("~") and path.split("/")[0] != "~":
        raise ValueError("only ~/ is expanded, to your own home folder; write any other home folder in full")
    return path


def _check_threads(value: object) -> object:
    is_number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 4096
    if not is_number and value not in ("auto", "adaptive"):
        raise ValueError("must be auto, adaptive, or a number of threads from 1 to 4096")
    return value


PathText = Annotated[str, AfterValidator(_require_valid_path)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
Pixels = Annotated[int, Field(ge=0, le=4096)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Scale = tuple[Annotated[float, Field(gt=0.0, le=1.0)], Annotated[float, Field(gt=0.0, le=1.0)]]
ShortName = Annotated[str, Field(pattern=r"^[A-Za-z][\w.+-]{0,23}$")]
Parameter = Annotated[float, Field(ge=-1e9, le=1e9)]
Threads = Annotated[int | Literal["auto", "adaptive"], BeforeValidator(_check_threads)]
SignalName = Literal["none", "class", "mean"]
FilterName = Literal["identity", "lambda", "ridge", "diagonal"]
Precision = Literal["float32", "tf32", "bfloat16"]  #: tf32: float32, with TF32 convolutions on CUDA
TapName = Literal["conv-input", "conv-output", "all-conv-output", "batchnorm", "bn-conv"]
Centre = Literal["set", "image"]
ControlName = Literal["random", "start"]  #: real images: drawn at random; those that recovery starts from
BackboneName = Literal[
    "convnet",
    "resnet18",
    "resnet50",
    "resnet101",
    "densenet121",
    "regnet_y_8gf",
    "convnext_tiny",
    "mobilenet_v2",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x0_5",
    "wrn_16_2",
]


class Node(BaseModel):
    """Base class of every part of the tree: immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def fields_by_key(cls) -> dict[str, Any]:
        """Return pydantic's fields by their keys in YAML."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}

    @classmethod
    def leaf_keys(cls, prefix: str = "") -> list[str]:
        """Return the dotted keys of all values in this tree. prefix: precedes each of them."""
        keys: list[str] = []
        for name, field in cls.fields_by_key().items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, Node):
                keys += inner.leaf_keys(f"{prefix}{name}.")
            else:
                keys.append(prefix + name)
        return keys
