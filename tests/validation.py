"""The BIDS validator as users run it."""

import json
import subprocess
import sys
from pathlib import Path


def validator_errors(dataset_dir: Path) -> list[str]:
    """``CODE location`` of every error that bids-validator-deno finds in the dataset."""
    validator = Path(sys.executable).parent / "bids-validator-deno"
    finished = subprocess.run(
        [validator, "--format", "json", dataset_dir], capture_output=True, text=True, check=False
    )
    issues = json.loads(finished.stdout)["issues"]["issues"]
    return [
        f"{issue['code']} {issue.get('location', '')}" for issue in issues if issue["severity"] == "error"
    ]
