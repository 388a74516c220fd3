#!/usr/bin/env bash
# What docs/benchmarks.md says of a GPU, in one go:  benchmarks/gpu.sh SCANS OUT
# SCANS holds stroke/{T1,T2,FLAIR}.nii.gz. gsplat's kernels are compiled first, where nvcc is.
set -u
scans=$1 out=$2
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONPATH=$PWD:$PWD/benchmarks:${PYTHONPATH:-} PYTHONUNBUFFERED=1

# The whole process from a cold start, kernels not compiled yet; then once more with them.
for run in cold warm; do
    "$python" benchmarks/real.py --scans "$scans" --device cuda --factors 5 \
        --out "$out/app" -- --prior graph --resource-monitor --work-dir "$out/work"
    cp "$out/app/atlasgs/logs/sub-x5_resources.tsv" "$out/resources-$run.tsv"
    cat "$out/resources-$run.tsv"
done

"$python" benchmarks/lesions.py --scans "$scans" --prior learned --out "$out/lesions"

with_gsplat=()
if MAX_JOBS=${MAX_JOBS:-16} "$python" -c 'from gsplat.cuda._backend import _C; assert _C is not None'; then
    with_gsplat=(--gsplat)
fi
"$python" benchmarks/engine.py --scans "$scans" --device cuda --head "${with_gsplat[@]}" --out "$out/engine"
"$python" -m pytest -m gpu -p no:cacheprovider -q tests/core
