"""A session's cells, one by one: what they share is loaded once, each ends in a file of its own."""

import json
import logging
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from filelock import FileLock

from atlasgs_bids.bids.entities import image_label
from atlasgs_bids.bids.images import ImageFile
from atlasgs_bids.bids.inputs.discover import discover_participant
from atlasgs_bids.bids.outputs.names import Naming, anchor_outputs
from atlasgs_bids.bids.plan.session import SubjectPlan, plan_subject
from atlasgs_bids.bids.plan.settings import PlanSettings
from atlasgs_bids.core.memory import with_smaller_chunks
from atlasgs_bids.core.settings import LEARNED_CPU, CoreSettings
from atlasgs_bids.errors import InputError, error_text
from atlasgs_bids.imaging.nifti import save_image, to_nifti
from atlasgs_bids.imaging.registration.register import apart_mm
from atlasgs_bids.restoration.anchor import load_anchor
from atlasgs_bids.restoration.scaffold import SessionScaffold, kept_scaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.costs import Costs, measured
from atlasgs_bids.runtime.devices import use_device
from atlasgs_bids.runtime.files import save_json, save_text
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.methods.catalogue import method_named
from atlasgs_bids.study.methods.protocol import Restored
from atlasgs_bids.study.results.cells import TRUTH, CellKey, Cells, middle_cuts
from atlasgs_bids.study.results.oblique import oblique_scores
from atlasgs_bids.study.results.scores import consistency_rms, image_scores, score_regions
from atlasgs_bids.study.settings import StudyConfig, method_of_row, row_name
from atlasgs_bids.study.simulation.case import Case, Simulation, at_defaults, simulate
from atlasgs_bids.study.simulation.truth import (
    Truth,
    check_anchor,
    isotropic_targets,
    load_truth,
    region_masks,
)
from atlasgs_bids.version import __version__

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionPlan:
    """What a session has for a study."""

    plan: SubjectPlan
    targets: tuple[ImageFile, ...]

    def keys(self, study: StudyConfig) -> list[CellKey]:
        """Every cell, the targets and factors of a method side by side."""
        return [
            CellKey(self.plan.participant, self.plan.session, image_label(image.entities), factor, row)
            for row in [row_name(own, kind) for own in study.methods for kind in study.calibrations]
            for image in self.targets
            for factor in study.factors
        ]


def plan_sessions(participant: str, study: StudyConfig) -> list[SessionPlan]:
    """The sessions with an isotropic target; InputError where one has no usable T1w."""
    inputs_of_sessions = discover_participant(
        study.bids_dir, participant, study.session_ids, study.bids_filters, study.derivatives
    )
    plans = []
    for inputs in inputs_of_sessions:
        targets = isotropic_targets(inputs, study)
        if targets:
            plans.append(
                SessionPlan(
                    plan_subject(inputs, PlanSettings(anchor="T1w"), Naming(study.out_dir / "shared")),
                    tuple(targets),
                )
            )
    return plans


def restoration_settings(study: StudyConfig) -> RestorationSettings:
    """The app's settings, as it would choose them on this device."""
    core = CoreSettings(seed=study.seed)
    if study.device == "cpu":
        core = replace(core, learned=LEARNED_CPU)
    if study.learned_steps is not None:
        learned = replace(core.learned, n_first_steps=study.learned_steps, n_cycles=0)
        core = replace(core, learned=learned)
    scaffold = core.scaffold
    if study.n_gaussians is not None:
        scaffold = replace(scaffold, n_gaussians=study.n_gaussians)
    if study.scaffold_steps is not None:
        scaffold = replace(scaffold, n_steps=study.scaffold_steps)
    return RestorationSettings(
        device=study.device,
        registration=study.registration,
        resolution="anchor",
        core=replace(core, scaffold=scaffold),
    )


class SessionRunner:
    """Computes cells of one session; keeps the scaffold, the truths and the simulations."""

    def __init__(self, session: SessionPlan, study: StudyConfig, progress: Progress) -> None:
        self.session, self.study, self.progress = session, study, progress
        self.cells, self.run = Cells(study.out_dir), restoration_settings(study)
        self._scaffold: tuple[SessionScaffold, float] | None = None
        self._truths: dict[str, Truth] = {}
        self._simulations: dict[tuple[str, int], Simulation] = {}
        self._at_defaults: dict[tuple[str, int], Case] = {}

    def compute(self, keys: Iterable[CellKey]) -> Iterator[tuple[CellKey, str]]:
        """Each cell and what became of it: ``done``, ``not run`` or ``failed``."""
        for key in keys:
            try:
                status = self._compute(key)
            except Exception as error:  # noqa: BLE001 - whatever breaks one cell breaks no other
                status = "failed"
                reason = note_failure(self.study, key.stem, error)
                self.cells.save(key, {"status": status, "reason": reason})
            yield key, status

    def _compute(self, key: CellKey) -> str:
        use_device(self.run.device)  # of whichever process this is
        name, calibration = method_of_row(key.method)
        method = method_named(name)
        reason = method.missing(self.study, self.run.device)
        if reason is not None:
            self.cells.save(key, {"status": "not run", "reason": reason})
            logger.warning("%s: not run: %s", key.stem, reason)
            return "not run"
        simulation = self._simulation(key)
        if calibration == "defaults":
            simulation = replace(simulation, case=self._case_at_defaults(key, simulation))
        scaffold = simulation.case.scaffold
        with self.progress.stage(key.stem) as advance, measured(self.run.device) as costs:
            restored = with_smaller_chunks(
                lambda core: method.restore(_with_core(simulation, core)),
                self.run.core,
                self.run.device,
                len(scaffold.gaussians),
            )
            advance(1)
        self._save(key, restored, costs, simulation)
        return "done"

    def _save(self, key: CellKey, restored: Restored, costs: Costs, simulation: Simulation) -> None:
        reference, image = simulation.reference, restored.image
        if not np.isfinite(image).all():
            raise InputError(f"{key.stem}: the result is not finite everywhere, expected an image")
        again, _ = simulation.degradation.slices(image, reference.world_from_voxel)
        acquired = simulation.case.placed.acquired.data
        consistency = consistency_rms(again, acquired, simulation.slices_mask)
        placed, points_mm = simulation.case.placed, simulation.case.scaffold.guides.points_mm
        found_mm = apart_mm(placed.registration.target_from_anchor, simulation.target_from_anchor, points_mm)
        of_all = {
            "consistency_rms": consistency,
            **image_scores(image, reference),
            **oblique_scores(restored, reference),
            "position_error": found_mm,
        }
        regions = {}
        for name, found in score_regions(image, reference).items():
            values = {**found.values, **(of_all if name == "mask" else {})}
            regions[name] = {
                "values": {k: v if np.isfinite(v) else None for k, v in values.items()},
                "units": {k: list(v) for k, v in found.units.items()},
            }
        self.cells.save_cuts(key, middle_cuts(image, reference.mask))
        if self.study.keep_images:
            nifti = to_nifti(image, reference.world_from_voxel)
            save_image(nifti, self.study.out_dir / "images" / f"{key.stem}.nii.gz")
        self.cells.save(
            key,
            {
                "status": "done",
                "range": reference.range,
                "regions": regions,
                **asdict(costs),
                "seconds_shared": restored.seconds_shared,
                "settings": {"network": asdict(self.study.network_here), "paper": asdict(self.study.paper)},
                "device": _device_name(self.run.device),
                "version": __version__,
            },
        )

    def _simulation(self, key: CellKey) -> Simulation:
        place = (key.target, key.factor)
        if place not in self._simulations:
            image = next(i for i in self.session.targets if image_label(i.entities) == key.target)
            scaffold, seconds = self._session_scaffold()
            if key.target not in self._truths:
                self._truths[key.target] = load_truth(image, scaffold, self.study)
            rois = region_masks(image, scaffold, self.study)
            simulation = simulate(
                image,
                self._truths[key.target],
                rois,
                key.factor,
                scaffold,
                self.run,
                self.study,
                self.progress,
            )
            simulation = replace(simulation, case=replace(simulation.case, scaffold_seconds=seconds))
            truth_key = replace(key, method=TRUTH)
            if self.cells.load_cuts(truth_key) is None:
                reference = simulation.reference
                self.cells.save_cuts(truth_key, middle_cuts(reference.truth, reference.mask))
            self._simulations[place] = simulation
        return self._simulations[place]

    def _case_at_defaults(self, key: CellKey, simulation: Simulation) -> Case:
        place = (key.target, key.factor)
        if place not in self._at_defaults:
            self._at_defaults[place] = at_defaults(simulation.case)
        return self._at_defaults[place]

    def _session_scaffold(self) -> tuple[SessionScaffold, float]:
        """The scaffold, and the seconds that its fit took when it was made."""
        if self._scaffold is None:
            plan, folder = self.session.plan, self.study.out_dir / "shared"
            anchor = load_anchor(plan.anchor.path, plan.brain_mask.path if plan.brain_mask else None)
            stored = anchor_outputs(folder, plan.participant, plan.session).scaffold_npz
            folder.mkdir(parents=True, exist_ok=True)
            note = folder / f"{plan.label.replace(' ', '_')}_scaffold-seconds.json"
            # Processes of one study that begin together fit one scaffold, not several.
            with FileLock(note.with_suffix(".lock")):
                scaffold = kept_scaffold(stored, anchor, self.run, self.progress.under(plan.label))
                if scaffold.seconds > 0 or not note.exists():
                    save_json({"seconds": scaffold.seconds}, note)
            seconds = float(json.loads(note.read_text(encoding="utf-8"))["seconds"])
            check_anchor(scaffold)
            self._scaffold = scaffold, seconds
        return self._scaffold


def note_failure(study: StudyConfig, stem: str, error: Exception) -> str:
    """The line that tells of an exception that is being handled; it is logged, the rest goes to a file."""
    text = error_text(error)
    path = study.out_dir / "logs" / f"{stem}.txt"
    logger.error("%s: %s (details: logs/%s)", stem, text, path.name)
    try:
        save_text(traceback.format_exc(), path)
    except OSError as full:  # a full disk may be the very failure
        logger.error("%s cannot be written: %s", path, full)  # noqa: TRY400
    return text


def _with_core(simulation: Simulation, core: CoreSettings) -> Case:
    return replace(simulation.case, run=replace(simulation.case.run, core=core))


def _device_name(device: str) -> str:
    return "cpu" if device == "cpu" else torch.cuda.get_device_name(device)
