#!/bin/sh
# Lists what an image holds of Debian and of Python, by name, version and licence, as SPDX: sbom.sh NAME-OF-THE-IMAGE.
# The Dockerfiles call it once the dependencies are there, with uv in /tmp/tools, where syft goes as well. Packages, not
# their files: those would fill megabytes.
set -eu
/tmp/tools/bin/uv pip install --quiet --python /tmp/tools/bin/python --require-hashes -r "$(dirname "$0")/sbom.txt"
folder=/usr/share/doc/lora-operator
mkdir -p "$folder"
export SYFT_CHECK_FOR_APP_UPDATE=false SYFT_RELATIONSHIPS_PACKAGE_FILE_OWNERSHIP=false SYFT_FILE_EXECUTABLE_GLOBS=none
/tmp/tools/bin/syft scan dir:/ --quiet --source-name "$1" \
  --override-default-catalogers dpkg-db-cataloger,python-installed-package-cataloger \
  --exclude ./proc --exclude ./sys --exclude ./dev --exclude ./tmp --exclude ./root \
  --output "spdx-json=$folder/sbom.spdx.json"
