#!/bin/sh
# Every number of docs/study.md, from the folder with stroke/{T1,T2,FLAIR}.nii.gz, on one GPU or two:
#
#     sh benchmarks/study.sh DIR OUT
#     GPUS="0 1" sh benchmarks/study.sh DIR OUT
#
# The tables are OUT/study/tables.md; OUT/tuning-* hold what was tried for the networks and the published method.
# Processes share a GPU, each with cells of its own; they meet in OUT/study, and a second run goes on where the
# first was stopped. `atlasgs-study OUT/bids OUT/study --device cuda` computes the same cells one after the other,
# with the times of a GPU that is not shared. The environment may name the programs where atlasgs-study is not
# installed (PYTHON, STUDY="python3 -m atlasgs_bids.study.cli"); TABLES=no leaves tables to another machine.
set -e
scans=$1 out=$2
: "${PYTHON:=python3}" "${STUDY:=atlasgs-study}" "${TABLES:=yes}" "${GPUS:=0}"
folder=$(dirname "$0")
[ -e "$out/bids" ] || "$PYTHON" "$folder/arrange.py" --scans "$scans" "$out/bids"
# The published method launches many small kernels: whatever keeps its GPU busy holds it up.
paper_gpu=${GPUS%% *} other_gpu=${GPUS##* }

cells() { # GPU, folder of OUT, options
    gpu=$1 where=$2
    shift 2
    CUDA_VISIBLE_DEVICES=$gpu $STUDY "$out/bids" "$out/$where" --device cuda --omp-nthreads 4 --output cells "$@"
}
tuned() { # GPU, name, options: FLAIR and T2w at x5, on the Gaussians that the study has
    gpu=$1 where=tuning-$2
    shift 2
    mkdir -p "$out/$where"
    if [ ! -e "$out/$where/shared" ]; then
        copy=$(mktemp -d "$out/$where/copy-XXXXXX")
        cp -r "$out/study/shared/." "$copy"
        mv -T "$copy" "$out/$where/shared" || rm -rf "$copy" # another process was quicker
    fi
    cells "$gpu" "$where" --factors 5 "$@"
}
report() { # name of the log, command
    log=$out/$1.log
    shift
    "$@" >>"$log" 2>&1 || { echo "failed, see $log: $*" >&2; touch "$out/.failed"; }
}
published() { # target
    report "paper-$1" cells "$paper_gpu" study --targets "$1" --methods paper --factors 5 3 7
    report "paper-$1" cells "$paper_gpu" study --targets "$1" --factors 5 \
        --methods paper-profile paper-color paper-persistence
    for rate in 0.003 0.03; do
        report "paper-$1" tuned "$paper_gpu" "rate-$rate" --targets "$1" --methods paper --paper-rate "$rate"
    done
    for weight in 0.64 10; do
        report "paper-$1" tuned "$paper_gpu" "smoothness-$weight" --targets "$1" --methods paper \
            --paper-smoothness "$weight"
    done
}
own_methods() {
    report atlasgs cells "$other_gpu" study --methods offset joint own learned
    report atlasgs cells "$other_gpu" study --methods offset-learned joint-learned own-learned --factors 5
}
networks() {
    report inr cells "$other_gpu" study --methods inr inr-t1
    for frequency in 10 20 60; do
        report inr tuned "$other_gpu" "frequency-$frequency" --methods inr --inr-frequency "$frequency"
    done
}

rm -f "$out/.failed"
# One process alone compiles the kernels and fits the scaffold, which the others then read.
report atlasgs cells "$other_gpu" study --methods cubic cubic-displaced graph
published FLAIR &
published T2w &
own_methods &
networks &
report eclare cells "$other_gpu" study --methods eclare &
wait
if [ "$TABLES" = yes ]; then
    for where in study $(cd "$out" && echo tuning-*); do
        report tables $STUDY "$out/bids" "$out/$where" --output tables
    done
    cat "$out/study/tables.md"
fi
[ ! -e "$out/.failed" ]
