#!/bin/sh
# Every number of docs/study.md, from the folder with stroke/{T1,T2,FLAIR}.nii.gz and from simulated heads, on one GPU:
#
#     sh benchmarks/study.sh DIR OUT               # goes on where it stopped
#     LIMIT=520 sh benchmarks/study.sh DIR OUT     # stops after so many seconds
#     python benchmarks/study_tables.py OUT        # the tables of docs/study.md and README.md, from the cells alone
#
# Cells lie in OUT/stroke, OUT/in-plane and OUT/heads; OUT/cells.tgz holds them without images, for another machine's
# study_tables.py. Several processes share the GPU, each with cells of its own; what matters most comes first.
# OUT/tuning-* hold what was tried for the network that knows the T1w. MORE=yes adds variants, ECLARE where it is
# installed, and what was tried for the other network and the published method. The environment may name the programs where atlasgs-study is not installed (PYTHON,
# STUDY="python3 -m atlasgs_bids.study.cli"), another device (DEVICE=cpu), and further options of all cells (OPTIONS).
set -e
scans=$1 out=$2
: "${PYTHON:=python3}" "${STUDY:=atlasgs-study}" "${DEVICE:=cuda}" "${LIMIT:=86400}" "${HEADS:=8}" "${MORE:=no}" "${OPTIONS:=}"
folder=$(dirname "$0")
deadline=$(($(date +%s) + LIMIT))
mkdir -p "$out"
rm -f "$out/.failed"

cells() { # log, dataset in OUT, folder of OUT, options: what is left of LIMIT is theirs
    log=$out/$1.log data=$2 where=$3
    shift 3
    left=$((deadline - $(date +%s)))
    [ $left -gt 0 ] || return 0
    # shellcheck disable=SC2086 # programs and options are several words
    timeout -k 20 $left $STUDY "$out/$data" "$out/$where" --device "$DEVICE" --omp-nthreads 2 --output cells \
        $OPTIONS "$@" >>"$log" 2>&1 || [ $(($(date +%s) + 1)) -ge $deadline ] ||
        { echo "failed, see $log: $where $*" >&2; touch "$out/.failed"; }
}
dataset() { # folder of OUT, command that makes it
    [ -e "$out/$1" ] && return
    name=$1
    shift
    rm -rf "$out/new-$name"
    "$@" "$out/new-$name" && mv "$out/new-$name" "$out/$name"
}
stroke() { # name of the log, options
    name=$1
    shift
    cells "$name" bids stroke "$@"
}
every_fourth_head() { # first
    for target in FLAIR T2w; do
        for number in $(seq "$1" 4 "$HEADS"); do
            cells "heads-$1" heads-bids heads --participant-label "sim$(printf %02d "$number")" --targets $target \
                --factors 5 --methods cubic spline graph learned --calibration known defaults
        done
    done
}
learned() {
    stroke learned --methods learned --calibration known defaults --factors 5 3 7
    cells in-plane bids in-plane --in-plane 2 --factors 5 --methods cubic spline graph learned
}
more() {
    stroke more --methods offset-learned joint-learned own-learned cubic-displaced --factors 5
    stroke more --methods paper eclare --factors 3 5 7
    stroke more --methods paper-profile paper-color paper-persistence --factors 5
    for frequency in 10 20 60; do tuned "frequency-$frequency" --methods inr --inr-frequency "$frequency"; done
    for rate in 0.003 0.03; do tuned "rate-$rate" --methods paper --paper-rate "$rate"; done
    for weight in 0.64 10; do tuned "smoothness-$weight" --methods paper --paper-smoothness "$weight"; done
}
weights() { # of the T1w in inr-t1: until its slices are explained
    for weight in 0.1 0.01; do
        tuned "weight-$weight" --methods inr-t1 --inr-anchor-weight "$weight"
    done
    tuned weight-0.1-steps-16000 --methods inr-t1 --inr-anchor-weight 0.1 --inr-steps 16000
}
tuned() { # name, options: on the Gaussians that the study has
    where=tuning-$1
    shift
    mkdir -p "$out/$where"
    [ -e "$out/$where/shared" ] || cp -r "$out/stroke/shared" "$out/$where/shared"
    cells "$where" bids "$where" --factors 5 "$@"
}

dataset bids "$PYTHON" "$folder/arrange.py" --scans "$scans"
dataset heads-bids "$PYTHON" "$folder/heads.py" --heads "$HEADS" &
# One process alone compiles the kernels and makes the scaffold, which the others then read.
stroke quick --methods graph --targets FLAIR --factors 5
wait
learned &
stroke paper --methods paper --factors 5 &
stroke inr --methods inr --factors 5 3 7 &
stroke inr-t1 --methods inr-t1 --factors 5 3 7 &
weights &
stroke quick --methods cubic spline graph --calibration known defaults --factors 5 3 7 &
stroke ablations --methods distance offset own joint fitted --factors 5 3 7 &
for first in 1 2 3 4; do every_fourth_head $first & done
wait
if [ "$MORE" = yes ]; then more; fi
(cd "$out" && tar czf cells.tgz $(find . -path './*/cells/*.json' -o -path './*/study.json'))
echo "$(find "$out" -path '*/cells/*.json' | wc -l) cells in $out; $((deadline - LIMIT)) was the start, $(date +%s) is the end"
[ ! -e "$out/.failed" ]
