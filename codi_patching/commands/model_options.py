"""The options that name a model and where it runs, for commands without a Trainer."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from codi_patching.errors import InputError
from codi_patching.models.arithmetic import enable_mkl_reproducibility
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import LoadReport, load_checkpoint

PRECISIONS = {
    "32-true": torch.float32,
    "bf16-true": torch.bfloat16,
    "16-true": torch.float16,
    "64-true": torch.float64,
}
"""By the names that Lightning has for them."""


def add_model_arguments(parser: argparse.ArgumentParser, checkpoint: str | None) -> None:
    """Add the options; `checkpoint` is the default of `--checkpoint`."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--checkpoint", default=checkpoint, help="name, Hub id, folder or file of the model"
    )
    group.add_argument("--base_model", help="id or folder, for the layouts of others")
    group.add_argument("--num_latents", type=int, help="K, if other than the known model's")
    group.add_argument("--lora_alpha", type=float, help="if the checkpoint has no record of it")
    group.add_argument(
        "--prompt_eos",
        action=argparse.BooleanOptionalAction,
        help="eos before bot and after eot, if other than the known model's",
    )
    group.add_argument("--answer_prefix", help='text before the answer; "" for none')
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto")
    group.add_argument("--precision", choices=list(PRECISIONS), default="32-true")
    group.add_argument("--batch_size", type=int, default=16, help="questions at a time")


def load_model(args: argparse.Namespace) -> tuple[CodiModel, LoadReport]:
    """Load the model that the options name, where and as they say.

    Raises:
        InputError: The model cannot be loaded, or there is no such device.
    """
    if args.batch_size < 1:
        raise InputError(f"expected --batch_size to be 1 or more, got {args.batch_size}")
    device = _device(args.device)
    if device.type == "cpu":
        enable_mkl_reproducibility()
    with _default_dtype(PRECISIONS[args.precision]):
        model, report = load_checkpoint(
            os.path.expanduser(args.checkpoint),
            args.num_latents,
            args.base_model and os.path.expanduser(args.base_model),
            args.lora_alpha,
            args.prompt_eos,
            args.answer_prefix,
        )
    return model.to(device), report


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"expected --device to be one of this machine's, got {name}: {reason}"
        ) from error
    return device


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What models are made in."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
