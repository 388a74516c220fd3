"""Compile gsplat's kernels into the installed package, where it looks for them before it compiles its own."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import gsplat
from torch.utils.cpp_extension import load

package = Path(gsplat.__file__).parent
cuda = package / "cuda"
with TemporaryDirectory() as build_dir:
    load(
        name="csrc",  # the name under which gsplat imports them
        sources=[
            str(path) for pattern in ("csrc/*.cu", "csrc/*.cpp", "ext.cpp") for path in cuda.glob(pattern)
        ],
        extra_cflags=["-O3", "-Wno-attributes"],
        extra_cuda_cflags=["-O3", "-use_fast_math"],
        extra_include_paths=[str(cuda / "include"), str(cuda / "csrc/third_party/glm")],
        build_directory=build_dir,
        is_python_module=False,
    )
    shutil.copy(Path(build_dir) / "csrc.so", package / "csrc.so")
