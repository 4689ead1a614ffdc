# Shell functions that quickstart and check share: what is installed, and steps with progress.
# Sourced, not run.

# Installs those of the named Debian packages that are missing; as root, or through sudo.
install_missing() {
  local missing=() name
  for name in "$@"; do
    # A package may stand for a choice: a|b is there when either is.
    local found='' choice
    for choice in ${name//|/ }; do
      if [ "$(dpkg-query -W -f='${db:Status-Status}' "$choice" 2>/dev/null)" = installed ]; then
        found=1
      fi
    done
    [ -n "$found" ] || missing+=("${name%%|*}")
  done
  if [ ${#missing[@]} -eq 0 ]; then
    echo "  nothing is missing"
    return 0
  fi
  local become=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "These packages are missing; run as root or install them: ${missing[*]}" >&2
      return 1
    fi
    become=(sudo)
  fi
  echo "  installing: ${missing[*]}"
  step "update the package lists" "${become[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q update || return 1
  step "download and install" "${become[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y --no-install-recommends install "${missing[@]}"
}

# step TITLE COMMAND ...: runs the command with its output in a log, says every five seconds that it
# still runs, and shows the end of the log when it fails.
step() {
  local title=$1 log started=$SECONDS code=0
  shift
  log=$(mktemp "${TMPDIR:-/tmp}/token_usage_step.XXXXXX")
  "$@" >"$log" 2>&1 </dev/null &
  local pid=$! told=0
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if [ $((SECONDS - started)) -ge $((told + 5)) ]; then
      told=$((SECONDS - started))
      echo "  ... $title: $told s"
    fi
  done
  wait "$pid" || code=$?
  if [ "$code" -ne 0 ]; then
    echo "  $title failed:" >&2
    tail -n 40 "$log" >&2
  else
    echo "  $title: $((SECONDS - started)) s"
  fi
  rm -f "$log"
  return "$code"
}
