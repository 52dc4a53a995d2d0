"""Sapiens 1 body parts, as Meta published them: TorchScript files `sapiens_*_torchscript.pt2`, float32, 1024 x 768 baked in."""
from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from .body_parser import BodyParser
from .body_tables import SAPIENS1, SAPIENS1_FOREGROUND

SIZE = (1024, 768)  # rows, columns
MEAN, STD = (123.5, 116.5, 103.5), (58.5, 57.0, 57.5)  # of 0..255, as in Meta's demos
HEAD = "conv_seg.weight"


def load_sapiens1(file: Path) -> BodyParser:
    """Always in float32, as the networks were traced. Raises ValueError for anything but a TorchScript file of 28 or 2 classes."""
    _check_archive(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is what Meta published
        try:
            # TorchScript is a language of its own: reading it runs no Python and unpickles nothing but tensors and plain values.
            module: nn.Module = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]  # as torch leaves it
        except RuntimeError as error:
            raise ValueError(f"{file} is damaged ({str(error).strip().splitlines()[0][:200]}); download it again") from error
    classes = next((len(weight) for name, weight in module.named_parameters() if name.endswith(HEAD)), len(SAPIENS1.rows))
    table = next((table for table in (SAPIENS1, SAPIENS1_FOREGROUND) if len(table.rows) == classes), None)
    if table is None:
        raise ValueError(f"{file} tells {classes} classes apart; body parts need a Sapiens seg model, with {len(SAPIENS1.rows)}")
    return BodyParser(file.stem, table, module.eval(), prepare, lambda pixels: _predict(module, pixels), SIZE[1] / SIZE[0])


def prepare(picture_HWC: Tensor) -> Tensor:
    """The picture stretched as Meta's demo does, (C, 1024, 768) float32: OpenCV's bilinear on bytes, then mean and deviation."""
    import cv2

    resized_HWC = cv2.resize(picture_HWC.contiguous().numpy(), (SIZE[1], SIZE[0]), interpolation=cv2.INTER_LINEAR)
    return ((torch.from_numpy(resized_HWC).float() - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)


def _predict(module: nn.Module, pixels_NChw: Tensor) -> Tensor:
    try:
        logits: Tensor = module(pixels_NChw)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # TorchScript hides what kind of error it was
        if "out of memory" in str(error):
            raise torch.OutOfMemoryError(str(error)) from error
        raise
    return logits


def _check_archive(file: Path) -> None:
    """Raises ValueError that says what the file is, unless it is a TorchScript archive."""
    use = "use the float32 file whose name ends in _torchscript.pt2, or Sapiens2"
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is no whole TorchScript file ({error}); download it again") from error
    if any(name.startswith("code/") for name in names) and "constants.pkl" in names:
        return
    if "bfloat16" in file.name or any("models/" in name or "exported_program" in name for name in (*names, *archive.namelist())):
        raise ValueError(f"{file} is a torch.export archive, which works with the PyTorch that made it (2.3) and for one picture at a time "
                         f"only; {use}")
    raise ValueError(f"{file} holds weights without a network, for Meta's own training code; {use}")
