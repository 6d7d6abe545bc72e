"""Random crops and flips, and the masks that move with their images."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType

from torch import Tensor
from torch.utils.data import Dataset

from ..part import PART


def augmentation(name: str, size: Sequence[int]) -> Callable:
    """Return the moves of `load_dataset(name, augment=True)` for images of `size` (H, W).

    A transform of torchvision's second version: it moves an image and its mask alike.
    """
    import_torchvision()
    transforms = importlib.import_module("torchvision.transforms.v2")
    height, width = size
    crop = transforms.RandomCrop((height, width), padding=(width // 8, height // 8))
    return transforms.Compose([crop] if name == "svhn" else [crop, transforms.RandomHorizontalFlip()])


class MovedMasks(Dataset):
    """Samples (image, class, number, mask): augmented images with the remembered masks that moved with them.

    Masks belong to the images as they are, and are moved by the very crop and flip of their image. Load with a new
    iterator for each epoch, as `DataLoader` does by default, so that its workers know the masks of that epoch.

    Args:
        dataset: samples (image, class) that are not augmented, images (C, H, W).
        part: the `PART` that remembers the masks; see `PART.remember`.
        transform: joint transform of image and mask, such as `augmentation`; None leaves both as they are.
    """

    def __init__(self, dataset: Dataset, part: PART, transform: Callable | None = None):
        self.dataset = dataset
        self.part = part
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int, Tensor]:
        image, label = self.dataset[index]
        mask = self.part.mask_of(index, image.shape[1:])
        if self.transform is not None:
            tv_tensors = importlib.import_module("torchvision.tv_tensors")
            image, mask = self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
            image, mask = (part.as_subclass(Tensor) for part in (image, mask))
        return image, label, index, mask


def import_torchvision() -> ModuleType:
    """Return torchvision, or say what is wrong with it."""
    try:
        import torchvision
    except Exception as error:  # built for another torch, it raises more than ImportError
        raise ImportError(
            f"load_dataset needs torchvision, which cannot be imported ({error}): pip install torchvision"
        ) from error
    return torchvision
