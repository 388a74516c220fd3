"""The devices that torch sees."""

from atlasgs_bids.errors import ConfigurationError


def resolved_device(device: str) -> str:
    """``cpu``, ``cuda`` (any of several) or ``cuda:n``; ConfigurationError where there is no such GPU."""
    if device == "cpu":
        return device
    n_devices = _n_cuda_devices()
    if device == "auto":
        return "cuda" if n_devices else "cpu"
    index = int(device.partition(":")[2] or 0)
    if index >= n_devices:
        import torch  # noqa: PLC0415 - takes seconds, and --device cpu needs none of it

        raise ConfigurationError(
            f"--device {device}: torch {torch.__version__} sees {n_devices} CUDA devices; use "
            "--device cpu, or check the driver, CUDA_VISIBLE_DEVICES and the container's --gpus or --nv"
        )
    return device


def devices(device: str) -> list[str]:
    """The devices that the processes take in turn: ``cuda`` stands for every GPU that is visible."""
    return [f"cuda:{index}" for index in range(_n_cuda_devices())] if device == "cuda" else [device]


def use_device(device: str) -> None:
    """Make a GPU the current one of this thread, for libraries that ask for no other; ``cpu``: nothing.

    The core names its device wherever it matters, so this is for what it calls.
    """
    if device == "cpu":
        return
    import torch  # noqa: PLC0415

    torch.cuda.set_device(device)


def _n_cuda_devices() -> int:
    import torch  # noqa: PLC0415

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
