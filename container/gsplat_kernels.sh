#!/bin/sh
# Compile gsplat's CUDA kernels for the architectures in $1, such as "8.0;9.0"; nothing where it is empty.
#
# nvcc comes from the wheel of the same CUDA version as torch's, and stays in the build stage.
set -eu
if [ -z "$1" ]; then
    exit 0
fi
CUDA=$(python -c 'import torch; print(torch.version.cuda or "")')
if [ -z "$CUDA" ]; then
    echo "GSPLAT_ARCHS=$1 needs torch's CUDA wheel, and PIP_ARGS chose the CPU one; leave one of them out" >&2
    exit 1
fi
apt-get update
apt-get install -y --no-install-recommends g++
python -m venv /opt/cuda
/opt/cuda/bin/pip install --no-compile "cuda-toolkit[nvcc,cccl,cudart,crt,nvvm,cublas,cusparse,cusolver,curand]==$CUDA.*"
CUDA_HOME=$(dirname "$(dirname "$(find /opt/cuda -type f -name nvcc | head -n 1)")")
export CUDA_HOME TORCH_CUDA_ARCH_LIST="$1"
python gsplat_kernels.py
