#!/usr/bin/env bash
# samples_test.sh DIRECTORY MODELS_DIR: every sample does what its first lines say.
set -uo pipefail
samples=$1 model=$2/books-7m-f16.gguf
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"  # nothing is found by being in the right place
failures=0
expect() {  # expect WHAT CONDITION...
    local what=$1
    shift
    "$@" || { echo "FAILED: $what"; cat "$work/out"; failures=$((failures + 1)); }
}
runs() { "$@" >"$work/out" 2>&1; }

if [ -x "$samples/embedded_weights" ]; then
    expect "weights inside the executable" runs "$samples/embedded_weights"
    expect "write a text" [ "$(wc -c <"$work/out")" -gt 60 ]
fi
if [ -x "$samples/fork" ]; then
    expect "forks over compressed keys and values" runs "$samples/fork" "$model"
    expect "four texts" [ "$(grep -c '^It was a dark night, and the old house' "$work/out")" -eq 4 ]
    # Whole texts, which have several lines.
    expect "that differ" [ "$(awk '/^It was a dark/ { ++n } { text[n] = text[n] $0 } END { for (i in text) print text[i] }' "$work/out" | sort -u | wc -l)" -eq 4 ]
    # The prompt's 18 tokens and 32 more are one page of 64 positions a session: 8 layers, K and V, 2 heads, 26 bytes a row.
    expect "in pages of compressed rows" grep -q "^keys and values: $((4 * 64 * 8 * 2 * 2 * 26)) bytes" "$work/out"

    expect "a session is saved" runs "$samples/save_restore" save "$work/state" "$model"
    saved=$(sed -n '/^saved/,$p' "$work/out" | tail -n +2)
    expect "and goes on in another process" runs "$samples/save_restore" restore "$work/state" "$model"
    expect "with the same text" [ -n "$saved" -a "$(cat "$work/out")" = "$saved" ]
    head -c 2000 "$work/state" >"$work/half"
    expect "half a state is refused" bash -c "! '$samples/save_restore' restore '$work/half' '$model' 2>/dev/null"

    expect "embeddings" runs "$samples/embeddings" "$model"
    expect "a text is like itself" [ "$(grep -c ' 1.000 ' "$work/out")" -eq 3 ]
    alike=($(head -n 1 "$work/out"))
    expect "ship and boat are closer than ship and tea" awk "BEGIN { exit !(${alike[1]:-0} > ${alike[2]:-1}) }"

    expect "every error is the one expected" runs "$samples/errors" "$model"
    # What it cannot bring about: root reads every file, a backend fails. PlatformFiles.*, Backend.* and tests/cuda do.
    expect "every status is seen but three" [ "$(sed -n 's/^not here: \(KEEL_[A-Z_]*\).*/\1/p' "$work/out" | xargs)" = \
        "KEEL_E_FILE_PERMISSION KEEL_E_POISONED KEEL_E_DEVICE" ]
fi
if [ -x "$samples/fixed_chat" ]; then
    expect "a model that never learnt to talk" bash -c "! echo Hi | '$samples/fixed_chat' '$model' >'$work/out' 2>&1"
    expect "is refused for its missing template" grep -q "chat: .*KEEL_E_UNSUPPORTED" "$work/out"
    real=$2/fetched/SmolLM2-135M-Instruct.Q4_1.gguf
    if [ -n "${KEEL_LONG_TESTS:-}" ] && [ -f "$real" ]; then
        # Longer than the context of 1,024: its first turns are forgotten, and it goes on.
        questions=$(for i in $(seq 12); do echo "Tell me a story about the number $i."; done)
        expect "a conversation in fixed memory" runs "$samples/fixed_chat" "$real" <<<"$questions"
        expect "has an answer to everything" [ "$(grep -c '^> [^ ]' "$work/out")" -eq 12 ]
    fi
fi
for source in "$2"/../*.c "$2"/../*.cpp; do
    expect "$source is below 100 lines of code" [ "$(grep -cvE '^ *($|//|/\*|\*)' "$source")" -lt 100 ]
done
[ $failures -eq 0 ] && echo "samples: ok"
exit $((failures > 0))
