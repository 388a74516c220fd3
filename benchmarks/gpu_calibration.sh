#!/usr/bin/env bash
# What docs/benchmarks.md says of self-calibration on a GPU:  benchmarks/gpu_calibration.sh SCANS OUT [MOTIONS]
# SCANS holds stroke/{T1,T2,FLAIR}.nii.gz.
set -u
scans=$1 out=$2 motions=${3:-6}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONPATH=$PWD:$PWD/benchmarks:${PYTHONPATH:-} PYTHONUNBUFFERED=1
"$python" benchmarks/real.py --scans "$scans" --device cuda --motions "$motions" --known --out "$out/graph" -- --prior graph
"$python" benchmarks/real.py --scans "$scans" --device cuda --motions "$motions" --known --out "$out/learned"
