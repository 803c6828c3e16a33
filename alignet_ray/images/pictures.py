"""Pictures as people have them at hand (files, folders, PIL images, arrays, tensors), opened as upright RGB images."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from alignet_ray.errors import UserError, require_named, require_regular
from alignet_ray.images.decode import TWELVE_BIT, TWELVE_BIT_HELP, as_seen, decode
from alignet_ray.images.file_kinds import LeftOut, is_shard

Picture: TypeAlias = str | Path | PIL.Image.Image | np.ndarray | Tensor
"""A file; a PIL image of any mode; an array (h, w) or (h, w, c) of 8 or 16 bits or of floats from 0 to 1; or a
tensor (c, h, w) of bytes. c is 1 (grey), 3 (RGB) or 4 (RGB and alpha)."""

Pictures: TypeAlias = Picture | Sequence[Picture]
"""One picture, a list of them, or a folder (or URL) of images. Float tensors, (3, s, s) or (b, 3, s, s), count as
preprocessed: they need no opening."""

TENSOR_HELP = "give bytes (c, h, w), or what `preprocess` returns"

PICTURE_HELP = "give a file, a PIL image, an array or a tensor, or several of them as a list"

ARRAY_HELP = "expected (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) of uint8, uint16, bool, or floats from 0 to 1"


def open_picture(picture: Picture) -> PIL.Image.Image:
    """Any picture as an upright RGB image, as a person would see it (see `decode.decode`).

    Raises:
        UserError: it cannot be read; the message names the file.
    """
    name = "the picture"
    source = picture
    try:
        if isinstance(picture, str | Path):
            name = str(picture)
            require_named(picture, "a picture")
            file = Path(picture).expanduser()
            require_regular(file)
            return _told_if_twelve_bit(decode(file.read_bytes()), name)

        # A tensor becomes an array, and an array a picture of Pillow's: each kind takes the way of the next.
        if isinstance(picture, Tensor):
            source = _channels_last(picture)
        if isinstance(source, np.ndarray):
            source = PIL.Image.fromarray(_pixels(source))
        if isinstance(source, PIL.Image.Image):
            return _told_if_twelve_bit(as_seen(source), name)
    except UserError:
        raise
    except (ValueError, OSError) as error:
        raise UserError(f"{name}: {_reason(error)}") from error
    raise UserError(f"{type(picture).__name__} is no picture: {PICTURE_HELP}")


def _channels_last(picture: Tensor) -> np.ndarray:
    """A tensor's pixels in the order of an array."""
    if picture.dtype != torch.uint8 or picture.ndim != 3:
        raise ValueError(f"a tensor of type {picture.dtype} and shape {tuple(picture.shape)}: {TENSOR_HELP}")
    pixels: np.ndarray = picture.permute(1, 2, 0).cpu().numpy()
    return pixels


def _pixels(array: np.ndarray) -> np.ndarray:
    """An array as Pillow takes it: bytes, or 16 bits for one channel."""
    if array.dtype.kind in "OSU":
        raise ValueError("an array of names or objects: give them as a list (array.tolist())")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    has_known_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not has_known_shape or array.size == 0:
        raise ValueError(f"an array of shape {array.shape}: {ARRAY_HELP}")

    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return np.where(array, 255, 0).astype(np.uint8)
    if array.dtype == np.uint16:
        # Pillow has no colour images of 16 bits; 65535 / 257 is 255 exactly.
        if array.ndim == 2:
            return array
        return (array // 257).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        # The comparison is false for NaN as well, which has no colour.
        is_fraction = bool(((array >= 0) & (array <= 1)).all())
        if is_fraction:
            return (array * 255).round().astype(np.uint8)
        raise ValueError(f"floats outside 0 to 1: {ARRAY_HELP}")
    raise ValueError(f"an array of {array.dtype}: {ARRAY_HELP}")


class NamedPicture(NamedTuple):
    """A picture of a list, or of a folder.

    Attributes:
        name: its path, relative to the folder if one was given; its number if it has no path.
        picture: what was given; in a folder the path there.
        folder: the folder or URL, or None.
    """

    name: str
    picture: Picture
    folder: str | None = None

    def open(self) -> PIL.Image.Image:
        """The upright RGB image.

        Raises:
            UserError: it cannot be read.
        """
        if self.folder is None:
            return open_picture(self.picture)
        from alignet_ray.images.listing import read_bytes

        try:
            return _told_if_twelve_bit(decode(read_bytes(self.folder, self.name)), self.name)
        except (ValueError, OSError) as error:
            raise UserError(f"{self.name} of {self.folder}: {_reason(error)}") from error


def is_single(pictures: Any) -> bool:
    """Whether the argument is one picture, neither a list nor a folder."""
    if isinstance(pictures, str | Path):
        return not _is_folder(pictures)
    # For Python they are sequences of numbers.
    if isinstance(pictures, bytes | bytearray):
        return True
    # Arrays (n, h, w, c) and tensors (n, c, h, w) are lists of pictures.
    if isinstance(pictures, np.ndarray | Tensor):
        return pictures.ndim <= 3
    return not isinstance(pictures, Sequence)


def list_pictures(pictures: Pictures) -> list[NamedPicture]:
    """One picture, a list or a folder as a list of named pictures; a folder's in the order of their paths.

    Raises:
        UserError: an empty list, or a folder without images.
    """
    if isinstance(pictures, bytes | bytearray):
        raise UserError("bytes are no picture: give the file's name, or PIL.Image.open(io.BytesIO(data))")
    if isinstance(pictures, str | Path):
        require_named(pictures, "pictures")
    if isinstance(pictures, str | Path) and _is_folder(pictures):
        # Imported late, here and above: it needs pyarrow, without which a model loads and opens single pictures.
        from alignet_ray.images.listing import list_images

        folder = str(pictures)
        if "://" not in folder:
            folder = str(Path(folder).expanduser())

        left_out = LeftOut()
        paths = list_images(folder, left_out)["path"].to_pylist()
        if left_out.concerns_user:
            warnings.warn(f"{folder}: {left_out.text()}", stacklevel=2)
        return [NamedPicture(path, path, folder) for path in paths]

    listed: Any = pictures
    if is_single(pictures):
        listed = [pictures]
    if not len(listed):
        raise UserError("the list of pictures is empty")

    # Arrays and open images have no name: their number stands in messages.
    named: list[NamedPicture] = []
    for number, picture in enumerate(listed):
        if isinstance(picture, str | Path):
            named.append(NamedPicture(str(picture), picture))
        else:
            named.append(NamedPicture(str(number), picture))
    return named


def _is_folder(path: str | Path) -> bool:
    """Whether a path means several pictures: a folder, a URL, or a shard, which counts as a folder."""
    # Not by `Path.is_dir`, which fails where a name is too long for the file system.
    return "://" in str(path) or is_shard(str(path)) or os.path.isdir(os.path.expanduser(path))


def _told_if_twelve_bit(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """The image; a warning says if it came out nearly black because its values need fewer bits than it has."""
    if image.info.get(TWELVE_BIT):
        warnings.warn(f"{name}: {TWELVE_BIT_HELP}", stacklevel=3)
    return image


def _reason(error: ValueError | OSError) -> str:
    """Why a file cannot be used, without the file's name, which stands in the message already."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
