"""Version, license and Python versions are stated the same everywhere."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import transformer

ROOT = Path(__file__).resolve().parents[2]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def test_citation_states_version_and_license():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {transformer.__version__}\n" in citation
    assert f"\nlicense: {SETUP['metadata']['license']}\n" in citation


def test_license_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert SETUP["metadata"]["license"] == "Apache-2.0"
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert text.rstrip().endswith("limitations under the License.")


def test_ci_tests_the_python_versions_of_the_classifiers():
    classifiers = SETUP["metadata"]["classifiers"]
    declared = re.findall(r"Python :: (3\.\d+)", classifiers)
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.findall(r'"(3\.\d+)"', workflow) == declared
    assert SETUP["options"]["python_requires"] == f">={declared[0]}"


def test_ci_script_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "run: .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_types_are_distributed():
    assert (ROOT / "transformer" / "py.typed").exists()
    assert "py.typed" in SETUP["options.package_data"]["transformer"]


def test_import_of_the_package_is_cheap():
    """The version is known before jax is imported."""
    code = "import sys, transformer; print('jax' in sys.modules, transformer.load)"
    line = [sys.executable, "-c", code]
    result = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.startswith("False <function load"), result.stderr
