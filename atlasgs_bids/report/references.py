"""The works that a methods text cites."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    authors: str
    """As BibTeX has them."""
    title: str
    where: str
    year: int
    doi: str = ""
    arxiv: str = ""

    @property
    def plain(self) -> str:
        """As a list of references has it."""
        names = self.authors.replace(" and others", " et al.").replace(" and ", ", ")
        title = f"{self.title}. " if self.title else ""
        where = f"{self.where}, " if self.where else ""
        return f"{names}. {title}{where}{self.year}. {self.link}"

    @property
    def link(self) -> str:
        return f"doi:{self.doi}" if self.doi else f"arXiv:{self.arxiv}"


REFERENCES = {
    "gao2026": Reference("Gao and others", "", "", 2026, arxiv="2606.02961"),
    "kerbl2023": Reference(
        "Kerbl, B. and Kopanas, G. and Leimkühler, T. and Drettakis, G.",
        "3D Gaussian Splatting for Real-Time Radiance Field Rendering",
        "ACM Transactions on Graphics 42(4)",
        2023,
        "10.1145/3592433",
    ),
    "gorgolewski2016": Reference(
        "Gorgolewski, K. J. and others",
        "The brain imaging data structure, a format for organizing and describing outputs of "
        "neuroimaging experiments",
        "Scientific Data 3:160044",
        2016,
        "10.1038/sdata.2016.44",
    ),
    "gorgolewski2017": Reference(
        "Gorgolewski, K. J. and others",
        "BIDS apps: Improving ease of use, accessibility, and reproducibility of neuroimaging data "
        "analysis methods",
        "PLOS Computational Biology 13(3):e1005209",
        2017,
        "10.1371/journal.pcbi.1005209",
    ),
    "golub1979": Reference(
        "Golub, G. H. and Heath, M. and Wahba, G.",
        "Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter",
        "Technometrics 21(2):215-223",
        1979,
        "10.1080/00401706.1979.10489751",
    ),
    "mattes2003": Reference(
        "Mattes, D. and Haynor, D. R. and Vesselle, H. and Lewellen, T. K. and Eubank, W.",
        "PET-CT image registration in the chest using free-form deformations",
        "IEEE Transactions on Medical Imaging 22(1):120-128",
        2003,
        "10.1109/TMI.2003.809072",
    ),
    "lowekamp2013": Reference(
        "Lowekamp, B. C. and Chen, D. T. and Ibáñez, L. and Blezek, D.",
        "The Design of SimpleITK",
        "Frontiers in Neuroinformatics 7:45",
        2013,
        "10.3389/fninf.2013.00045",
    ),
}
