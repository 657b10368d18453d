"""Catalogue of named data sets: normalisation, size, folder names, download.

Means and standard deviations are those of the training sets per channel, in [0, 1] units. Archive addresses
and MD5 sums are the official ones.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """A downloadable archive. folder: its only top-level folder; bytes: approximate size."""

    url: str
    md5: str
    folder: str
    bytes: int

    @property
    def file(self) -> str:
        """File name of the archive."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def max_bytes(self) -> float:
        """Size above which a download is not this archive."""
        return 1.1 * self.bytes


@dataclass(frozen=True)
class Known:
    """A named data set. folders: its possible names below a data root, the usual one first.

    size: default side in pixels. mean, std: if None, they are computed from the training set.
    classes, images: of the whole training set. note: how to obtain it.
    """

    title: str
    folders: tuple[str, ...] = ()
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: int | None = None
    images: int | None = None
    archive: Archive | None = None
    note: str = ""


KNOWN: dict[str, Known] = {
    "digits": Known(
        title="scikit-learn's handwritten digits, 8×8, enlarged",
        size=16,
        classes=10,
        images=1797,
        note="comes with the program; nothing to get",
    ),
    "cifar10": Known(
        title="CIFAR-10, 32×32",
        folders=("cifar10", "cifar-10", "CIFAR10", "CIFAR-10", "cifar-10-batches-bin", "cifar-10-batches-py"),
        size=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        classes=10,
        images=50_000,
        archive=Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
            "cifar-10-batches-bin",
            170_052_171,
        ),
    ),
    "cifar100": Known(
        title="CIFAR-100, 32×32",
        folders=("cifar100", "cifar-100", "CIFAR100", "CIFAR-100", "cifar-100-binary", "cifar-100-python"),
        size=32,
        mean=(0.5071, 0.4866, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        classes=100,
        images=50_000,
        archive=Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
            "cifar-100-binary",
            168_513_733,
        ),
    ),
    "tiny-imagenet": Known(
        title="Tiny-ImageNet, 64×64",
        folders=("tiny-imagenet-200", "tiny-imagenet", "tiny_imagenet", "TinyImageNet", "tiny"),
        size=64,
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        classes=200,
        images=100_000,
        archive=Archive(
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            "90528d7ca1a48142e341f4ef8d21d0de",
            "tiny-imagenet-200",
            248_100_043,
        ),
    ),
    "imagenet": Known(
        title="ImageNet (ILSVRC 2012), read from its files at 224×224",
        folders=("imagenet", "ImageNet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC", "imagenet-1k"),
        size=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        classes=1000,
        images=1_281_167,
        note="accept its licence at https://image-net.org/download.php, fetch "
        "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, and unpack them to "
        "{root}/imagenet/train/WNID/*.JPEG and {root}/imagenet/val/WNID/*.JPEG",
    ),
    "folder": Known(
        title="any folder of pictures",
        note="put pictures as DIR/train/CLASS/* and DIR/test/CLASS/*, and give DIR as the data root",
    ),
}
