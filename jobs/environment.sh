# Sourced by quickstart.sh and tests/run.sh: an environment with the package and one extra ($1: weights or test).
# Makes .venv if no environment is active. A second call installs nothing, because the first one leaves a note.
if [ -z "${VIRTUAL_ENV:-}" ]; then
  [ -x .venv/bin/python ] || python3 -m venv .venv
  source .venv/bin/activate
fi
python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "alignet-ray needs Python 3.11 or newer" >&2; exit 2; }
installed="$VIRTUAL_ENV/.alignet-ray-$1"
wanted="$(pwd) $(python -c 'import hashlib; print(hashlib.sha256(open("pyproject.toml", "rb").read()).hexdigest())')"
if [ "$(cat "$installed" 2>/dev/null)" != "$wanted" ]; then
  echo "installing alignet-ray[$1] into $VIRTUAL_ENV (a few minutes the first time)"
  python -m pip install --quiet --editable ".[$1]"   # one resolution, so that torch and torchvision match
  printf '%s' "$wanted" > "$installed"
fi
