#!/bin/sh
# Every number of docs/study.md, from the folder with stroke/{T1,T2,FLAIR}.nii.gz, on one GPU:
#
#     sh benchmarks/study.sh DIR OUT
#
# Processes share the GPU, each with cells of its own; they meet in OUT/study, and a second run goes on where the
# first was stopped. One `atlasgs-study OUT/bids OUT/study --device cuda` computes the same cells one after the
# other, with the times of a GPU that is not shared. STUDY and PYTHON name the programs where atlasgs-study is not
# installed (STUDY="python3 -m atlasgs_bids.study_cli"); TABLES=no leaves tables and figures to another machine.
set -e
scans=$1 out=$2
: "${PYTHON:=python3}" "${STUDY:=atlasgs-study}" "${TABLES:=yes}"
folder=$(dirname "$0")
[ -e "$out/bids" ] || "$PYTHON" "$folder/arrange.py" --scans "$scans" "$out/bids"

pids='' failed=0
cells() {
    $STUDY "$out/bids" "$out/study" --device cuda --omp-nthreads 4 --output cells "$@"
}
start() {
    name=$1
    shift
    cells "$@" >"$out/$name.log" 2>&1 &
    pids="$pids $!"
}
finish() {
    for pid in $pids; do wait "$pid" || failed=1; done
    pids=''
}

# One process alone compiles the kernels and fits the scaffold, which the others then read.
cells --methods cubic graph
# The published method launches many small kernels: what keeps the GPU busy would hold it up.
for factor in 3 5 7; do start "paper-$factor" --methods paper --factors "$factor"; done
start geometry --methods offset joint own eclare
finish
start inr --methods inr
start inr-t1 --methods inr-t1
start learned --methods learned
finish
start geometry-learned --methods offset-learned joint-learned own-learned --factors 5
start paper-variants --methods paper-color paper-profile --factors 5
finish
if [ "$TABLES" = yes ]; then
    $STUDY "$out/bids" "$out/study" --output tables || failed=1
    cat "$out/study/tables.md"
fi
exit $failed
