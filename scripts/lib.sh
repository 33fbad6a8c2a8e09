# shellcheck shell=bash
# Shared by the scripts here and by .ci/run; source it. Gives ROOT, and functions to find meson, configure and test.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly ROOT

die() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# What the tests of a script need cannot be had here.
not_run() {
    printf '%s: NOT RUN: %s\n' "${0##*/}" "$*" >&2
    exit 77
}

# Sets MESON to the first meson of version 1.0 or later: PATH may hold others (from pip, say) before Debian's.
find_meson() {
    local candidate version
    while IFS= read -r candidate; do
        version=$("$candidate" --version 2>/dev/null) || continue
        if [[ $version =~ ^([0-9]+)\. ]] && ((BASH_REMATCH[1] >= 1)); then
            MESON=$candidate
            return
        fi
    done < <(type -ap meson; echo /usr/bin/meson)
    die "no meson of version 1.0 or later; scripts/setup installs Debian's"
}

# configure DIR [OPTION...]: a build directory of the source tree, new or as it was. One that another version
# of meson made, and this one cannot read, is made again with the same options.
configure() {
    local dir=$1
    shift
    [[ ${MESON:-} ]] || find_meson
    if [[ -e $dir/meson-private/coredata.dat ]]; then
        "$MESON" setup --reconfigure "$dir" "$ROOT" "$@" >"$dir/configure.log" 2>&1 && return
        "$MESON" setup --wipe "$dir" "$ROOT" "$@"
    else
        "$MESON" setup "$dir" "$ROOT" "$@"
    fi
}

# build DIR
build() {
    "$MESON" compile -C "$1"
}

# run_tests DIR [MESON TEST OPTION...]: sets PASSED, FAILED and SKIPPED from meson's own log. The status is
# meson's, and 1 when nothing passed.
run_tests() {
    local dir=$1 log="$1/meson-logs/flashc.json" status=0 counts
    shift
    rm -f "$log"
    "$MESON" test -C "$dir" --logbase flashc --print-errorlogs "$@" || status=$?
    PASSED=0 FAILED=0 SKIPPED=0
    [[ -f $log ]] || return 1 # meson found no test
    print_not_run "$log"
    counts=$(count_tests "$log") || return 1
    read -r PASSED FAILED SKIPPED <<<"$counts"
    if ((status == 0 && (FAILED > 0 || PASSED == 0))); then
        status=1
    fi
    return "$status"
}

# environment_has VENV WANTED: was this virtual environment made, whole, for these requirements?
environment_has() {
    [[ $(cat "$1/installed.txt" 2>/dev/null) == "$2" ]] && "$1/bin/python" -c '' 2>/dev/null
}

# new_environment VENV: empty, in place of what was there. Whoever fills it notes the requirements in installed.txt.
new_environment() {
    rm -rf "$1"
    python3 -m venv "$1" || die "python3 -m venv failed"
}

# install_wheel VENV: the wheel of build_wheel, also over another of the same version.
install_wheel() {
    "$1/bin/python" -m pip install -q --disable-pip-version-check --no-deps --force-reinstall "$ROOT"/build/wheel/*.whl
}

# build_wheel [VENV]: the Python package of the source tree, as build/wheel/*.whl, by the tools of .venv or VENV.
build_wheel() {
    local venv=${1:-.venv}
    rm -rf "$ROOT/build/wheel"
    PATH="$ROOT/$venv/bin:$PATH" "$ROOT/$venv/bin/python" -m pip wheel -q --disable-pip-version-check \
        --no-build-isolation --no-deps --config-settings=build-dir="$ROOT/build/python${venv#.venv}" \
        -w "$ROOT/build/wheel" "$ROOT"
}

# run_pytest VENV [PYTEST ARGUMENT...]: installs the wheel into the environment and runs. Sets PASSED, FAILED and
# SKIPPED; the status is pytest's.
run_pytest() {
    local venv=$ROOT/$1 log=$ROOT/build/pytest$1.xml status=0 counts
    shift
    PASSED=0 FAILED=0 SKIPPED=0
    install_wheel "$venv" || return 1
    rm -f "$log"
    (cd "$ROOT" && "$venv/bin/python" -B -m pytest -q -rs -p no:cacheprovider --junit-xml="$log" "$@") || status=$?
    counts=$(count_pytest "$log") || return 1
    read -r PASSED FAILED SKIPPED <<<"$counts"
    return "$status"
}

# count_pytest LOG: "passed failed skipped" of a JUnit file.
count_pytest() {
    python3 - "$1" <<'PYTHON'
import sys, xml.etree.ElementTree as tree
suites = list(tree.parse(sys.argv[1]).getroot().iter("testsuite"))
names = ("tests", "failures", "errors", "skipped")
total, failures, errors, skipped = (sum(int(s.get(name)) for s in suites) for name in names)
print(total - failures - errors - skipped, failures + errors, skipped)
PYTHON
}

# The counts of the last run_tests or run_pytest, as one line.
print_counts() {
    echo "$PASSED passed, $FAILED failed, $SKIPPED skipped"
}

# print_not_run LOG: what the skipped tests of a meson test log say for themselves.
print_not_run() {
    python3 - "$1" <<'PYTHON'
import json, sys
for line in open(sys.argv[1], encoding="utf-8"):
    test = json.loads(line)
    if test["result"] == "SKIP":
        said = (test.get("stdout", "") + test.get("stderr", "")).splitlines()
        reasons = [text for text in said if text.startswith("not run")] or said[-1:] or ["no reason given"]
        print(*(f"skipped {test['name']}: {reason}" for reason in reasons), sep="\n")
PYTHON
}

# count_tests LOG: "passed failed skipped" of a meson test log (one JSON object a line).
count_tests() {
    python3 - "$1" <<'PYTHON'
import json, sys
results = [json.loads(line)["result"] for line in open(sys.argv[1], encoding="utf-8")]
passed = sum(result in ("OK", "EXPECTEDFAIL") for result in results)
skipped = results.count("SKIP")
print(passed, len(results) - passed - skipped, skipped)
PYTHON
}
