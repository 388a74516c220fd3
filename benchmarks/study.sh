#!/bin/sh
# Every number of docs/study.md, from the folder with stroke/{T1,T2,FLAIR}.nii.gz, on one GPU:
#
#     sh benchmarks/study.sh DIR OUT
#
# Four processes share the GPU, each with methods of its own; they meet in OUT/study. One
# `atlasgs-study OUT/bids OUT/study --device cuda` computes the same cells one after the other.
# STUDY and PYTHON name the programs where atlasgs-study is not installed; TABLES=no leaves tables and figures
# to another machine.
set -e
scans=$1 out=$2
: "${PYTHON:=python3}" "${STUDY:=atlasgs-study}"
folder=$(dirname "$0")
[ -e "$out/bids" ] || "$PYTHON" "$folder/arrange.py" --scans "$scans" "$out/bids"

pids=
start() {
    name=$1
    shift
    $STUDY "$out/bids" "$out/study" --device cuda --omp-nthreads 4 --output cells "$@" >"$out/$name.log" 2>&1 &
    pids="$pids $!"
}

# One process alone compiles the kernels and fits the scaffold, which the others then read.
$STUDY "$out/bids" "$out/study" --device cuda --omp-nthreads 4 --output cells --methods cubic graph
start paper --methods paper
start inr --methods inr inr-t1
start geometry --methods offset joint own eclare
start learned --methods learned
failed=0
for pid in $pids; do wait "$pid" || failed=1; done
pids=
start geometry-learned --methods offset-learned joint-learned own-learned --factors 5
start paper-variants --methods paper-color paper-profile --factors 5
for pid in $pids; do wait "$pid" || failed=1; done
[ "$TABLES" = no ] || $STUDY "$out/bids" "$out/study" --output tables || failed=1
[ "$TABLES" = no ] || cat "$out/study/tables.md"
exit $failed
