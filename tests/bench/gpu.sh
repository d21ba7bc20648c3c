#!/usr/bin/env bash
# Measure styler on a GPU in under 8 minutes and print one Markdown table: see gpu.py, which gets all arguments.
# Needs only Python: whatever the machine lacks goes into a temporary environment on top of what it has.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
cd "$root"

can_paint() { "$1" -c 'import styler.engine.painter, platformdirs' 2> /dev/null; }

for python in "${PYTHON:-}" .venv/bin/python python3 python; do
  if [ -n "$python" ] && command -v "$python" > /dev/null && can_paint "$python"; then
    exec "$python" "$here/gpu.py" "$@"
  fi
done

# What painting imports, of the dependencies in pyproject.toml, by module and by package.
needed=(torch:torch numpy:numpy PIL:pillow safetensors:safetensors filelock:filelock psutil:psutil platformdirs:platformdirs)
python=${PYTHON:-python3}
missing=()
for each in "${needed[@]}"; do
  "$python" -c "import ${each%%:*}" 2> /dev/null || missing+=("${each##*:}")
done
echo "Missing here: ${missing[*]:-nothing}." >&2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv --system-site-packages "$folder"
if [ "${#missing[@]}" != 0 ] && ! timeout 180 "$folder/bin/python" -m pip install -q "${missing[@]}"; then
  echo "Cannot install ${missing[*]}: without internet, set PYTHON to an environment that has them." >&2
  exit 1
fi
if ! can_paint "$folder/bin/python"; then
  "$folder/bin/python" -c 'import styler.engine.painter, platformdirs'
fi
"$folder/bin/python" "$here/gpu.py" "$@"
