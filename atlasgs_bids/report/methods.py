"""What was done to these images, as a text to copy (CC0), with what it cites."""

import html
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from atlasgs_bids.bids.entities import parse_entities
from atlasgs_bids.report.references import REFERENCES

_CITE = re.compile(r"\{(" + "|".join(REFERENCES) + r")\}")
# What else stands between braces comes from a file, and is text.
_LICENCE = "This text may be used as it is, and changed, by anybody: CC0 1.0."
_TEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "\\": r"\textbackslash{}"}
)


@dataclass(frozen=True)
class Described:
    """A finished result, by what its files say of it."""

    suffix: str
    sidecar: Mapping[str, Any]
    metrics: Mapping[str, str]


@dataclass(frozen=True)
class Methods:
    """Paragraphs in which ``{kerbl2023}`` cites a reference."""

    paragraphs: tuple[str, ...]

    @property
    def cited(self) -> list[str]:
        """Keys of the references, in the order of the text."""
        return list(dict.fromkeys(key for text in self.paragraphs for key in _CITE.findall(text)))

    def plain(self) -> str:
        return "\n\n".join([*self._texts(lambda numbers: f"[{numbers}]"), *self._list("{0}. {1}")])

    def markdown(self) -> str:
        return f"# Methods\n\n{self.plain()}\n\n_{_LICENCE}_\n"

    def html(self) -> str:
        texts = [html.escape(text) for text in self._texts(lambda numbers: f"[{numbers}]")]
        listed = "".join(f"<li>{html.escape(REFERENCES[key].plain)}</li>" for key in self.cited)
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            "<title>Methods</title></head><body>\n"
            "<h1>Methods</h1>\n" + "".join(f"<p>{text}</p>\n" for text in texts)
            + f"<ol>{listed}</ol>\n<p>{_LICENCE}</p>\n</body></html>\n"
        )  # fmt: skip

    def tex(self) -> str:
        texts = []
        for text in self.paragraphs:
            parts = _CITE.split(text)
            texts.append(
                "".join(rf"\cite{{{p}}}" if n % 2 else p.translate(_TEX) for n, p in enumerate(parts))
            )
        return (
            f"% {_LICENCE}\n"
            + "\n\n".join(texts)
            + "\n\\bibliographystyle{unsrt}\n\\bibliography{CITATION}\n"
        )

    def bibtex(self) -> str:
        entries = []
        for key in self.cited:
            own = REFERENCES[key]
            fields = {
                "author": own.authors, "title": own.title, "journal": own.where, "year": str(own.year),
                "doi": own.doi, "eprint": own.arxiv, "archivePrefix": "arXiv" if own.arxiv else "",
            }  # fmt: skip
            lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
            entries.append(f"@{'article' if own.where else 'misc'}{{{key},\n{lines}\n}}\n")
        return "\n".join(entries)

    def _texts(self, cite: Callable[[str], str]) -> list[str]:
        numbers = {key: str(number) for number, key in enumerate(self.cited, start=1)}
        return [_CITE.sub(lambda match: cite(numbers[match[1]]), text) for text in self.paragraphs]

    def _list(self, form: str) -> list[str]:
        if not self.cited:
            return []
        lines = [form.format(n, REFERENCES[key].plain) for n, key in enumerate(self.cited, start=1)]
        return ["References", "\n".join(lines)]


def methods_of(results: Sequence[Described], version: str) -> Methods:
    """The text for these results; where they differ it says how many were treated which way."""
    if not results:
        return Methods(("No image was restored.",))
    return Methods((_opening(results, version), _model(results), _position(results), _filling(results)))


def _opening(results: Sequence[Described], version: str) -> str:
    n = len(results)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in Counter(r.suffix for r in results).items())
    thick = _span(results, "slice_thickness")
    spacing = _span(results, "slice_spacing")
    made = _counted(_setting(result, "version") or version for result in results)
    return (
        f"{n} {'image' if n == 1 else 'images'} in thick slices ({kinds}) {'was' if n == 1 else 'were'} "
        "restored with "
        f"AtlasGS {made} {{gao2026}}, a BIDS App {{gorgolewski2016}} {{gorgolewski2017}}, in the space of "
        "the same "
        f"participant's {_counted(map(_anchor, results))} image. The slices were {thick} mm thick, {spacing} "
        "mm from centre to centre; the results have "
        f"voxels of {_counted(_resolution(result) for result in results)}. Nothing but the participant's "
        "own scans was "
        "used: no training data of others, no atlas."
    )


def _model(results: Sequence[Described]) -> str:
    moved = _counted(str(result.sidecar.get("Geometry", "frozen")) for result in results)
    text = (
        f"The {_guide(results)} image was represented by Gaussians on a lattice {{kerbl2023}}, at most one "
        "for each voxel of its foreground, "
        f"which render it with a peak signal-to-noise ratio of {_span(results, 'anchor_psnr')} dB. The "
        "amplitudes of the "
        "Gaussians were fitted to the acquired slices of each image through a model of their "
        "acquisition: position, "
        "orientation, thickness, distance and sensitivity profile of the slices. No image was resampled. "
    )
    if moved != "frozen":
        text += f"The Gaussians' geometry was treated as: {moved}. "
    profiles = _counted(str(result.sidecar.get("SliceProfile", "box")) for result in results)
    text += f"Slice profile: {profiles}"
    widths = _span(results, "profile_sd")
    return text + (
        f", with a standard deviation of {widths} mm found from held-out slices." if widths else "."
    )


def _position(results: Sequence[Described]) -> str:
    words = {
        "rigid": "by maximising mutual information {mattes2003} with SimpleITK {lowekamp2013}, then the "
        "model's own "
        "evidence, rigidly",
        "deformable": "by mutual information {mattes2003} and the model's own evidence, rigidly and along "
        "the phase-encoding axis by cubic B-splines whose signal is kept",
        "header": "by the headers alone",
        "derivative": "by the transform of another pipeline",
    }
    ways = Counter(
        method for result in results for method in result.metrics.get("registration_method", "").split(", ")
    )
    said = [f"{words.get(way, way)}" + (f" ({n})" if len(ways) > 1 else "") for way, n in ways.items() if way]
    text = f"Images were aligned with the {_guide(results)} {'; '.join(said) or 'as their headers say'}"
    moved = _span(results, "registration_displacement")
    text += f", which moved them by {moved} mm on average over the head." if moved else "."
    if any(_is_bent_by_others(result.metrics) for result in results):
        text += " Displacement fields of another pipeline were part of the model, signal kept."
    if any(result.sidecar.get("Motion") == "slice" for result in results):
        text += " Movement and intensity steps between slices were corrected rigidly, slice by slice."
    if any(result.sidecar.get("Motion") == "volume" for result in results):
        text += (
            " Each volume of a series was placed rigidly where the model's evidence was greatest, its "
            "diffusion direction turned with it, where that could be told from the reference; slices that "
            "lost their signal were left out."
        )
    return text


def _is_bent_by_others(metrics: Mapping[str, str]) -> bool:
    given = "derivative" in metrics.get("registration_method", "")
    return given and metrics.get("distortion_mean", "n/a") != "n/a"


def _filling(results: Sequence[Described]) -> str:
    guide = _guide(results)
    words = {
        "graph": "a graph prior that asks neighbouring Gaussians for similar amplitudes, the more so the "
        "more alike the "
        f"{guide} is there",
        "learned": "the expectation of a network trained on the image's own slices beside the "
        f"{guide}, as "
        "far as the slices "
        f"bear it out, over a graph prior along the {guide}",
        "smoothness": f"a smoothness prior without the {guide}, which did not help to predict the slices",
    }
    kinds = Counter(str(result.sidecar.get("Prior", "graph")) for result in results)
    said = [words.get(kind, kind) + (f" ({n})" if len(kinds) > 1 else "") for kind, n in kinds.items()]
    given = [result for result in results if _setting(result, "regularization")]
    chosen = (
        "as given" if len(given) == len(results) else "chosen by generalised cross-validation {golub1979}"
    )
    text = f"What the slices leave open was filled by {'; '.join(said)}. Its weight was {chosen}."
    if any(result.metrics.get("sd_median", "n/a") != "n/a" for result in results):
        text += " A standard deviation of the error was estimated for every voxel."
    return text


def _anchor(result: Described) -> str:
    """The suffix of a result's anchor, from the name of the file whose space it is in."""
    reference = str(result.sidecar.get("SpatialReference", ""))
    return parse_entities(PurePath(reference))["suffix"] or "T1w"


def _guide(results: Sequence[Described]) -> str:
    """The anchor of all results by its name, or by what it is where they have different ones."""
    names = {_anchor(result) for result in results}
    return names.pop() if len(names) == 1 else "anchor"


def _setting(result: Described, name: str) -> str:
    settings = result.sidecar.get("Settings")
    value = settings.get(name) if isinstance(settings, dict) else None
    return "" if value is None else str(value)


def _resolution(result: Described) -> str:
    return str(result.sidecar.get("Resolution", "n/a")).partition(" (")[0]


def _counted(values: Iterable[str]) -> str:
    """Each different value, with how often where there are several."""
    counts = Counter(values)
    return ", ".join(value + (f" ({n})" if len(counts) > 1 else "") for value, n in counts.items())


def _span(results: Sequence[Described], column: str) -> str:
    """Smallest to greatest value of a metric; empty where none has one."""
    values = []
    for result in results:
        try:
            values.append(float(result.metrics.get(column, "n/a")))
        except ValueError:
            continue
    if not values:
        return ""
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"
