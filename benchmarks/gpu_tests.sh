#!/usr/bin/env bash
# Every test that needs a GPU, several of them where there are:  benchmarks/gpu_tests.sh [PYTEST OPTIONS]
set -u
python=${PYTHON:-python3}
export PYTHONPATH=$PWD:$PWD/benchmarks:$PWD/demo:${PYTHONPATH:-} PYTHONUNBUFFERED=1
"$python" -c 'import torch; print(torch.__version__, [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())])'
MAX_JOBS=${MAX_JOBS:-16} TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0} \
    "$python" -c 'from gsplat.cuda._backend import _C; print("gsplat kernels", _C is not None)'
"$python" -m pytest -m gpu -p no:cacheprovider -q -W ignore::DeprecationWarning --durations=10 --ignore tests/browser "$@" tests
