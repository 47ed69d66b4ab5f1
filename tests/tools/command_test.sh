#!/usr/bin/env bash
# command_test.sh KEEL MODELS_DIR [SHARED_DIR]: the keel command from outside: exit codes, output shapes, determinism, honest counts.
set -uo pipefail
keel=$1 model=$2/books-7m-f16.gguf
source=$(cd "$(dirname "$0")/../.." && pwd)
shared=${KEEL_SHARED:-${3:-$source/../shared}}  # further models; what needs them is left out where there are none
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
expect() {  # expect WHAT CONDITION...
    local what=$1
    shift
    "$@" || { echo "FAILED: $what"; failures=$((failures + 1)); }
}
exits() {  # exits CODE COMMAND...: the code, and nothing but the code
    local code=$1 got
    shift
    "$@" >"$work/out" 2>"$work/err" </dev/null
    got=$?
    [ $got -eq "$code" ] || { echo "exit $got instead of $code: $*"; cat "$work/err"; false; }
}
holds() { grep -q -e "$1" "$work/${2:-out}"; }

# Help and usage.
expect "help" exits 0 "$keel" --help
expect "help lists exit codes" holds 'Exit codes'
for verb in run chat plan inspect bench profile "eval ppl" "eval draws" "eval kv" "eval learn" "calibrate kv" "capture kv" "capture trace" "capture pool" "geometry protocol" "geometry build" "geometry measure" "geometry interpolate" "geometry ready" pack unpack tokenize quantize synth "wproj build" "wproj compare" "wproj inspect" "wproj synth" "wproj verify" "wproj find" "wproj manifest check"; do
    # shellcheck disable=SC2086
    expect "$verb --help" exits 0 "$keel" $verb --help
    expect "$verb has examples" holds 'Examples:'
    expect "$verb has no words of the command's own help" [ -z "$(grep '^Exit codes:' "$work/out")" ]
    expect "help of $verb fits 80 columns" [ -z "$(grep -E '^.{81}' "$work/out")" ]
done
expect "no verb is a usage error" exits 2 "$keel"
expect "unknown option is a usage error" exits 2 "$keel" run "$model" --no-such-option
expect "bad choice is a usage error" exits 2 "$keel" run "$model" --weights nowhere
expect "bad bias is a usage error" exits 2 "$keel" run "$model" --logit-bias seven
expect "bad size is a usage error" exits 2 "$keel" plan "$model" --memory lots

# Files.
expect "missing file" exits 3 "$keel" inspect "$work/none.gguf"
head -c 5000 "$model" >"$work/cut.gguf"
expect "cut file" exits 3 "$keel" inspect "$work/cut.gguf" --json
expect "the error is JSON too" holds '"status": "KEEL_E_FILE_'
expect "the error names the offset" holds '"offset"'
expect "a directory as text" exits 3 "$keel" eval ppl "$model" "$work"
expect "a directory as prompt" exits 3 "$keel" run "$model" -f "$work"
expect "no template, no chat" exits 3 "$keel" chat "$model"
expect "and it says so" holds 'no chat template' err

# The model as an option; output that cannot be written.
expect "-m names the model" exits 0 "$keel" inspect -m "$model"
expect "-m before a text" exits 0 "$keel" tokenize -m "$model" "Hello, world!" --count
expect "the text is not taken for the model" holds '^6$'
if [ -w /dev/full ]; then
    for words in "--help" "inspect $model --json" "run $model -n 2 -q"; do
        # shellcheck disable=SC2086
        "$keel" $words >/dev/full 2>"$work/err" </dev/null
        expect "a full disk: $words" [ $? -eq 1 ]
        expect "and it says so: $words" holds 'cannot write to standard output' err
    done
fi

# Run: same seed, same text; another seed, another text; threads do not matter; no allocation after init.
run() { "$keel" run "$model" --prompt "The sea" --max-tokens 24 "$@" 2>"$work/err"; }
first=$(run --seed 7)
expect "text is generated" [ ${#first} -gt 20 ]
expect "allocations are reported" holds 'after init: 0' err
expect "regions are reported" holds '^kv ' err
expect "same seed, same text" [ "$(run --seed 7 --threads 1)" = "$first" ]
expect "chunk size changes nothing" [ "$(run --seed 7 --chunk 2)" = "$first" ]
expect "another seed, another text" [ "$(run --seed 8)" != "$first" ]
expect "map and copy agree" [ "$(run --seed 7 --weights map)" = "$first" ]
expect "drafts change nothing" [ "$(run --seed 7 --draft 5)" = "$first" ]
expect "at temperature 0 neither" [ "$(run --temp 0 --max-tokens 60 --draft 7)" = "$(run --temp 0 --max-tokens 60)" ]
expect "a draft model changes nothing" [ "$(run --seed 7 --draft 5 --draft-model "$model")" = "$first" ]
expect "a draft model of another vocabulary" exits 3 "$keel" run "$model" --draft 5 --draft-model "$2/../../tests/data/architectures/smollm2-q8_0.gguf"
expect "no low-rank variant to draft" exits 2 "$keel" run "$model" --draft 5 --draft-low-rank
expect "a pool needs drafts" exits 2 "$keel" run "$model" --draft-pool "$model"
expect "no draft pool" exits 3 "$keel" run "$model" --draft 3 --draft-pool "$model"
expect "json of a full context" exits 0 "$keel" run "$model" --max-tokens 4000000000 --context 32 --json
expect "json run" exits 0 "$keel" run "$model" --max-tokens 4 --json
expect "json has no allocation" holds '"arena_allocations_after_init": 0'
expect "max tokens is obeyed" holds '"generated_tokens": 4'
expect "stop string" exits 0 "$keel" run "$model" --prompt "Once upon a" --temp 0 --max-tokens 200 --stop the --json
expect "stop string is found" holds '"stop": "stop string"'
expect "context is a limit" exits 0 "$keel" run "$model" --context 16 --max-tokens 64 --json
expect "and says so" holds '"stop": "context full"'
expect "a prompt beyond the context" exits 4 "$keel" run "$model" --context 2 --prompt "one two three four five"

# Ctrl-C ends a generation cleanly: exit code 5, figures included. Sent once the first words are there.
"$keel" run "$model" --min-tokens 2000 --max-tokens 2000 --no-echo >"$work/out" 2>"$work/err" &
running=$!
for _ in $(seq 500); do [ -s "$work/out" ] && break; sleep 0.01; done
kill -INT $running
wait $running
expect "Ctrl-C cancels" [ $? -eq 5 ]
expect "and says so" holds 'stopped: cancelled' err

# interrupted SECONDS COMMAND...: its exit code after Ctrl-C, sent after SECONDS.
interrupted() {
    local seconds=$1 running code
    shift
    "$@" >"$work/out" 2>"$work/err" </dev/null &
    running=$!
    sleep "$seconds"
    kill -INT $running
    wait $running
    code=$?
    [ $code -eq 5 ] || { echo "exit $code: $*"; cat "$work/err"; false; }
}
expect "Ctrl-C in eval ppl" interrupted 1 "$keel" eval ppl "$model" "$2/books-val-sample.jsonl" --window 2048 --stride 1
expect "says so" holds 'stopped by Ctrl-C' err
expect "Ctrl-C in bench" interrupted 5 "$keel" bench "$model" --prefill 16 --decode 16 --steps 0 --budget-us 0 --repeats 1000000 --stream-mib 8
expect "shows what it measured" holds '^decode 16 tokens at 16 '
expect "Ctrl-C in bench --contended" interrupted 3 "$keel" bench "$model" --contended --decode 16 --position 16 --repeats 1000000
expect "shows what it measured too" holds '^busy neighbours '
expect "Ctrl-C while a model is written" interrupted 1 "$keel" synth "$work/large.gguf" --shape 8b --mix F32
expect "no half file" [ ! -e "$work/large.gguf" ]
expect "nor another one" [ -z "$(ls "$work" | grep large)" ]
expect "Ctrl-C in eval kv" interrupted 3 "$keel" eval kv "$model" "$2/books-val-sample.jsonl" --formats tcq-2,tcq-3,tcq-4,e8-2,e8-3 --largest 1
"$keel" bench "$model" --contended --decode 4 --position 4 --repeats 1 --json >"$work/out" 2>"$work/err"
expect "busy neighbours are counted" holds '"neighbours": 0,'
expect "in a context of their own" exits 0 "$keel" bench "$model" --contended --context 64 --decode 4 --position 4 --repeats 1
expect "which may be too short" exits 2 "$keel" bench "$model" --contended --context 64 --decode 64 --position 4 --repeats 1
"$keel" bench "$model" --prefill 0 --decode 0 --steps 20 --position 8 --budget-us 0 --threads 1 --stream-mib 8 --json >"$work/out" 2>"$work/err"
expect "steps of one thread have arithmetic of their length beside them" holds '"control": {'
"$keel" bench "$model" --columns --threads 1 --position 4 --repeats 1 --json >"$work/out" 2>"$work/err"
expect "steps of up to 16 tokens have a cost" holds '"tokens": 16,'

# Chat: one JSON line a turn; the second turn feeds only what is new.
printf '%s' "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}" >"$work/chatml.jinja"
printf 'Good evening.\nWho are you?\n' | "$keel" chat "$model" --template "$work/chatml.jinja" --max-tokens 8 --json >"$work/out" 2>"$work/err"
expect "two turns" [ "$(grep -c '"assistant"' "$work/out")" -eq 2 ]
turn_tokens=($(sed -n 's/.*"prompt_tokens":\([0-9]*\).*/\1/p' "$work/out"))
expect "the second turn does not repeat the first" [ "${turn_tokens[1]:-99}" -lt $((2 * ${turn_tokens[0]:-0})) ]
(for i in 1 2 3 4 5; do echo "Tell me something about number $i please"; done; echo /reset; echo Hello) |
    "$keel" chat "$model" --template "$work/chatml.jinja" -c 160 --min-tokens 20 -n 20 --json >"$work/out" 2>"$work/err"
expect "a conversation longer than the context goes on" [ $? -eq 0 ]
expect "every message is answered" [ "$(grep -c '"generated_tokens":20' "$work/out")" -eq 6 ]
expect "the oldest turns are dropped" holds '"dropped_turns":1'
expect "not before they must" [ "$(head -n 1 "$work/out" | grep -c '"dropped_turns":0')" -eq 1 ]
expect "after /reset there is room again" [ "$(tail -n 1 "$work/out" | grep -c '"dropped_turns":0')" -eq 1 ]
(for i in 1 2 3 4 5; do echo "Tell me something about number $i please"; done; echo /reset; echo Hello) |
    "$keel" chat "$model" --template "$work/chatml.jinja" -c 160 --min-tokens 20 -n 20 --json --kv-k tcq-4 --kv-v tcq-4 --kv-recent 8 >"$work/out" 2>"$work/err"
expect "also where rows of recent positions are gone" [ $? -eq 0 -a "$(grep -c '"generated_tokens":20' "$work/out")" -eq 6 ]
echo "$(printf 'word %.0s' $(seq 200))" | "$keel" chat "$model" --template "$work/chatml.jinja" -c 160 >"$work/out" 2>"$work/err"
expect "a message longer than the context is refused" [ $? -eq 4 ]
expect "in clear words" holds 'this message has [0-9]* tokens with its template and the context 160' err
echo 'no family writes this' >"$work/odd.jinja"
expect "an unknown template is refused" exits 3 "$keel" chat "$model" --template "$work/odd.jinja"
"$keel" pack "$model" "$work/talks.keel" --chat-template "$work/chatml.jinja" >"$work/out" 2>"$work/err"
printf 'Good evening.\r\n\r\n/reset\r\nGood evening.\r\n/quit\r\nNo more\r\n' | "$keel" chat "$work/talks.keel" --max-tokens 4 --json >"$work/out" 2>"$work/err"
expect "a pack brings a template, lines may end in CR LF" [ "$(grep -c '"user":"Good evening."' "$work/out")" -eq 2 -a "$(wc -l <"$work/out")" -eq 2 ]

# Tokenize: there and back.
expect "tokenize" exits 0 "$keel" tokenize "$model" "Hello, world!" --count
expect "count" holds '^6$'
expect "decode" exits 0 "$keel" tokenize "$model" --decode 438,290,4028
expect "decoded" holds '^Hello$'
expect "the number alone" exits 0 "$keel" tokenize "$model" "Hello, world!" --count --json
expect "as JSON too" bash -c "grep -q '\"tokens\": 6' '$work/out' && ! grep -q pieces '$work/out'"
expect "a text and a file" exits 2 "$keel" tokenize "$model" Hello --file "$0"
expect "a text and ids" exits 2 "$keel" tokenize "$model" Hello --decode 438
expect "ids are not counted" exits 2 "$keel" tokenize "$model" --decode 438 --count

# Plan: bytes are what init uses; the search fits and does not fit.
expect "plan" exits 0 "$keel" plan "$model"
expect "plan has no overlapping buffers" bash -c "! grep -q '|[^|]*![^|]*|' '$work/out'"
expect "RoPE and the KV rows are ops" bash -c "grep -q ' rope ' '$work/out' && grep -q ' kv_append ' '$work/out'"
expect "the map shows working memory, attention's state and 8-bit rows or f32 ones" \
    bash -c "grep -q '  thread$' '$work/out' && grep -q '  attn_state$' '$work/out' && grep -q '  ffn_in' '$work/out'"
expect "objects of other regions" exits 0 "$keel" plan "$model" --no-ops --no-map --region persistent --region kv --region weights
expect "each has a name" bash -c "grep -q ' logits ' '$work/out' && grep -q ' pages ' '$work/out' && grep -q ' attn_q.weight ' '$work/out'"
expect "solve" exits 0 "$keel" plan "$model" --memory 64M --sessions 2 --json
expect "solve finds the model's context" holds '"context_tokens": 2048'
expect "compressed K and V are proposed" holds '"ppl_percent_on_smollm2_135m": 0.54$'
# What is proposed must not hang on the cores of the machine, nor on what a build with sanitizers adds to each object.
exact=$("$keel" plan "$model" --context 448 --kv-k f16 --kv-v f16 --threads 1 --json | sed -n 's/.*"total_bytes": \([0-9]*\).*/\1/p')
expect "in words" exits 0 env KEEL_CPU=scalar "$keel" plan "$model" --memory "$exact" --threads 1
expect "with what they give and cost" holds '^Keys in tcq-4 and values in tcq-[34] give .* times the context for +0.[57][42] % of SmolLM2'
expect "and how to get them" holds '^keel run .* --kv-k tcq-4 --kv-v tcq-[34] --kv-recent '
if "$keel" plan "$model" --no-ops --no-map >/dev/null 2>&1 && KEEL_CPU=avx2 "$keel" plan "$model" --memory "$exact" --threads 1 >"$work/out" 2>/dev/null; then
    expect "what avx2 does not decode fast is passed over" holds '^Keys in e8-[45] and values in e8-[45] give '
    expect "which is said" holds '^Keys in tcq-4 and values in tcq-[34] would give a context of [0-9]*, but avx2 kernels '
fi
expect "recent rows that are given are kept" exits 0 "$keel" plan "$model" --memory 64M --kv-recent 24 --json
expect "in every row" bash -c "! grep '\"recent_tokens\"' '$work/out' | grep -v -q ': 24,'"
expect "without figures of other ones" bash -c "! grep -q ppl_percent '$work/out'"
expect "formats that are named are kept" exits 0 "$keel" plan "$model" --memory 64M --kv-k f16 --kv-v f16
expect "nothing else is proposed" bash -c "! grep -q tcq '$work/out'"
expect "nothing fits" exits 4 "$keel" plan "$model" --memory 1M
expect "nor as JSON" exits 4 "$keel" plan "$model" --memory 1M --json
expect "which is one document" [ "$(grep -c '^{' "$work/out")" -eq 1 ]
expect "other sinks" exits 0 "$keel" plan "$model" --memory 64M --kv-sinks 0 --chunk 8 --threads 1
expect "have no figures" bash -c "! grep -q '+0' '$work/out'"
expect "and are in the line to run" holds '^keel run .* --threads 1 --chunk 8 --kv-sinks 0'
total=$("$keel" plan "$model" --context 256 --kv-k f16 --kv-v f16 --weights copy --json | sed -n 's/.*"total_bytes": \([0-9]*\).*/\1/p')
expect "the search finds this context in exactly its bytes" exits 0 \
    "$keel" plan "$model" --memory "$total" --kv-k f16 --kv-v f16 --weights copy --json
at_least=$(sed -n 's/.*"context_tokens": \([0-9]*\).*/\1/p' "$work/out" | head -n 1)
expect "at least 256 tokens fit into the bytes of 256 tokens" [ "${at_least:-0}" -ge 256 ]
expect "one byte less" exits 0 "$keel" plan "$model" --memory "$((total - 1))" --kv-k f16 --kv-v f16 --weights copy --json
fewer=$(sed -n 's/.*"context_tokens": \([0-9]*\).*/\1/p' "$work/out" | head -n 1)
expect "fewer tokens fit into one byte less" [ "${fewer:-9999}" -lt 256 ]

# What lies beside the pages: 4 sinks in f16, and in q8_0 twice the rows that 64 recent positions look back at and 16 may be taken back of,
# of 8 layers, 2 KV heads of 64, K and V.
expect "plan without profile" exits 0 "$keel" plan "$model" --json
expect "nothing lies beside the pages" bash -c "grep -q '\"kv_session_bytes\": 0,' '$work/out' && grep -q '\"kv_side_bytes\": 0,' '$work/out'"
expect "plan with precise rows" exits 0 "$keel" plan "$model" --kv-k tcq-3 --kv-v tcq-3 --kv-sinks 4 --kv-recent 64 --chunk 64 --json
expect "the rows are those" holds "\"kv_session_bytes\": $((4 * 8 * 2 * 2 * 64 * 2 + 2 * (64 - 1 + 16) * 8 * 2 * 2 * (64 + 2 * 2))),"
expect "in words" exits 0 "$keel" plan "$model" --kv-k tcq-3 --kv-v tcq-3 --kv-sinks 4 --no-ops --no-map
expect "the rows of sinks" holds '^rows of sinks and recent positions: 16.0 KiB a session'

# The kernel set: an option, else the environment; what is missing is refused and named.
expect "KEEL_CPU" exits 0 env KEEL_CPU=scalar "$keel" plan "$model" --no-ops --no-map
expect "KEEL_CPU is used" holds 'scalar kernels'
expect "an unknown KEEL_CPU is refused" exits 3 env KEEL_CPU=fast "$keel" plan "$model"
expect "and it is named" holds 'KEEL_CPU' err
expect "--cpu wins" exits 0 env KEEL_CPU=fast "$keel" plan "$model" --cpu scalar --no-ops --no-map

# Packs.
printf 'CC0\n' >"$work/LICENSE"
expect "pack" exits 0 "$keel" pack "$model" "$work/books.keel" --note "$work/LICENSE"
cp "$model" "$work/files_model.gguf"
expect "a pack is no model to pack" exits 3 "$keel" pack "$work/books.keel" "$work/twice.keel"
expect "a pack in place of its model" exits 2 "$keel" pack "$work/files_model.gguf" "$work/files_model.gguf"
long="Meta-Llama-of-another-name-8B-Instruct-Q4_K_M.gguf"
ln "$work/files_model.gguf" "$work/$long"
expect "a long name" exits 0 "$keel" pack "$work/$long" "$work/long.keel"
expect "is cut" bash -c "'$keel' inspect '$work/long.keel' | grep -q 'Meta-Llama-of-another-name.gguf'"
mkdir "$work/one" "$work/two"
cp "$work/LICENSE" "$work/one/a note (1).txt"
cp "$work/LICENSE" "$work/two/a note (1).txt"
expect "names that a pack does not have, and one twice" exits 0 "$keel" pack "$model" "$work/names.keel" --note "$work/one/a note (1).txt" --note "$work/two/a note (1).txt"
expect "become others" bash -c "'$keel' inspect '$work/names.keel' | grep -q 'note *a_note__1_.txt ' && '$keel' inspect '$work/names.keel' | grep -q 'note *a_note__1_-2.txt '"
expect "which is said" holds 'two/a note (1).txt is called a_note__1_-2.txt' err
expect "a pack in place of a part" exits 2 "$keel" pack "$model" "$work/one/a note (1).txt" --note "$work/one/a note (1).txt"
expect "leaves it" cmp -s "$work/LICENSE" "$work/one/a note (1).txt"
expect "what is no W_proj cache is not packed" exits 3 "$keel" pack "$model" "$work/bad.keel" --wproj "$work/LICENSE"
: >"$work/empty"
expect "nor is an empty file" exits 2 "$keel" pack "$model" "$work/bad.keel" --note "$work/empty"
expect "nor is it a profile" exits 3 "$keel" pack "$model" "$work/bad.keel" --kv-profile "$work/LICENSE"
expect "and nothing is written" [ ! -e "$work/bad.keel" ]
"$keel" run "$model" -p "Once upon a time" -n 8 -q >"$work/of_file" 2>/dev/null
expect "a pack runs" exits 0 "$keel" run "$work/books.keel" -p "Once upon a time" -n 8 -q
expect "and writes what its model writes" cmp -s "$work/out" "$work/of_file"
expect "inspect shows its sections" exits 0 "$keel" inspect "$work/books.keel" --verify
expect "the note among them" holds 'note *LICENSE'
expect "unpack" exits 0 "$keel" unpack "$work/books.keel" "$work/files"
expect "the model to the byte" cmp -s "$model" "$work/files/books-7m-f16.gguf"
expect "and the note" cmp -s "$work/LICENSE" "$work/files/LICENSE"
expect "pack with rows interleaved" exits 0 "$keel" pack "$model" "$work/rows.keel" --interleave
expect "it runs mapped" exits 0 "$keel" run "$work/rows.keel" -p "Once upon a time" -n 8 -q --weights map
expect "to the same text" cmp -s "$work/out" "$work/of_file"
expect "and is plain when unpacked" exits 0 "$keel" unpack "$work/rows.keel" "$work/rows"
expect "to the byte" cmp -s "$model" "$work/rows/books-7m-f16.gguf"
expect "pack with its tensors coded" exits 0 "$keel" pack "$model" "$work/coded.keel" --codec auto
expect "which is smaller" [ "$(wc -c <"$work/coded.keel")" -lt "$(($(wc -c <"$model") * 9 / 10))" ]
expect "it runs" exits 0 "$keel" run "$work/coded.keel" -p "Once upon a time" -n 8 -q
expect "to the same text" cmp -s "$work/out" "$work/of_file"
expect "but not mapped" exits 1 "$keel" run "$work/coded.keel" -p "Once upon a time" -n 8 -q --weights map
expect "and says why" holds 'mapped' err
expect "verbs that map otherwise take it" exits 0 "$keel" tokenize "$work/coded.keel" "Hello, world!" --count
expect "and see the same" holds '^6$'
expect "the search leaves mapping out" exits 0 "$keel" plan "$work/coded.keel" --memory 64M --json
expect "and nothing fails in it" bash -c "! grep -q '\"error\"' '$work/out'"
expect "inspect shows the codec" exits 0 "$keel" inspect "$work/coded.keel" --verify --metadata
expect "and what is left" holds 'rans .* %'
expect "text packed alone" bash -c "'$keel' pack '$model' '$work/text.keel' --codec zstd --note '$source/README.md' >'$work/out' 2>'$work/err' || grep -q 'no zstd' '$work/err'"
if [ -e "$work/text.keel" ]; then
    expect "which is smaller" [ "$(wc -c <"$work/text.keel")" -lt "$(wc -c <"$model")" ]
    expect "it runs mapped" exits 0 "$keel" run "$work/text.keel" -p "Once upon a time" -n 8 -q --weights map
    expect "to the same text" cmp -s "$work/out" "$work/of_file"
    expect "inspect shows it" exits 0 "$keel" inspect "$work/text.keel" --verify --json
    expect "with the text of the model" holds '"text_bytes": 96800'
    expect "and is plain when unpacked" exits 0 "$keel" unpack "$work/text.keel" "$work/texts"
    expect "to the byte" cmp -s "$model" "$work/texts/books-7m-f16.gguf"
    expect "the note too" cmp -s "$source/README.md" "$work/texts/README.md"
    expect "text is packed with the tensors" bash -c "'$keel' inspect '$work/coded.keel' | grep -q 'zstd, rans'"
else
    expect "without zstd nothing is packed" exits 1 "$keel" run "$source/tests/fuzz/corpus/pack/zstd" -p "Once" -n 1
    expect "and what is packed is refused by name" holds 'zstd' err
fi
expect "and is plain when unpacked" exits 0 "$keel" unpack "$work/coded.keel" "$work/decoded"
expect "to the byte" cmp -s "$model" "$work/decoded/books-7m-f16.gguf"
cp "$work/books.keel" "$work/damaged.keel"
printf 'x' | dd of="$work/damaged.keel" bs=1 seek=9000000 conv=notrunc status=none
expect "damage is found" exits 3 "$keel" inspect "$work/damaged.keel" --verify
expect "and named" holds 'damaged' err
expect "a damaged pack gives no files" exits 3 "$keel" unpack "$work/damaged.keel" "$work/none"
expect "none at all" [ ! -e "$work/none" ]
expect "a GGUF file has no checksums" exits 2 "$keel" inspect "$model" --verify

# Synth, inspect, eval and bench on what it wrote.
expect "synth" exits 0 "$keel" synth "$work/tiny.gguf" --shape tiny --mix Q8_0
expect "inspect" exits 0 "$keel" inspect "$work/tiny.gguf" --tensors --metadata
expect "the type is there" holds 'Q8_0'
expect "it runs" holds '^runs  *yes'
LC_ALL=C sed 's/tokenizer\.ggml\.pre/tokenizer.ggml.pro/' "$source/tests/data/architectures/qwen3.gguf" >"$work/nameless.gguf"
expect "inspect of a file that names no pre-tokenizer" exits 0 "$keel" inspect "$work/nameless.gguf"
expect "says what it needs" holds '^runs  *not as it is: tokenizer.ggml.pre.*config.pre_tokenizer'
expect "it runs with a name, and drafts too" exits 0 "$keel" run "$work/nameless.gguf" --pre qwen2 -n 2 -q --draft 3 --draft-model "$work/nameless.gguf"
expect "it is packed" exits 0 "$keel" pack "$work/nameless.gguf" "$work/nameless.keel" --pre qwen2
"$keel" plan "$work/nameless.gguf" --pre qwen2 --memory 64M >"$work/out" 2>"$work/err"
expect "what a search proposes runs" holds '^keel run .* --pre qwen2$'
adapted=$source/tests/data/architectures/smollm2-q8_0.gguf adapter=$source/tests/data/adapters/llama-all.gguf
expect "inspect of an adapter" exits 0 "$keel" inspect "$adapter"
expect "says what it changes" holds '^changes  *[0-9]* matrices, rank up to 16, alpha 32'
expect "run without the adapter" exits 0 "$keel" run "$adapted" -n 8 -q --temp 0
cp "$work/out" "$work/plain"
expect "run with the adapter" exits 0 "$keel" run "$adapted" --lora "$adapter" -n 8 -q --temp 0
expect "it says something else" [ "$(cmp -s "$work/out" "$work/plain"; echo $?)" -eq 1 ]
expect "run with scale 0" exits 0 "$keel" run "$adapted" --lora "$adapter:0" -n 8 -q --temp 0
expect "it says the same" cmp -s "$work/out" "$work/plain"
decode_bytes() { "$keel" bench "$adapted" --prefill 0 --depth 0 --decode 1 --steps 0 --repeats 1 --stream-mib 8 --json "$@" 2>/dev/null | sed -n 's/.*"bytes_per_step": \([0-9]*\).*/\1/p'; }
expect "bench counts its bytes" [ "$(decode_bytes --lora "$adapter")" -gt "$(decode_bytes)" ]
expect "plan with the adapter" exits 0 "$keel" plan "$adapted" --lora "$adapter" --no-ops --no-map
expect "says what it takes" holds '^adapters: 1, '
expect "no tensors of an adapter" exits 2 "$keel" inspect "$adapter" --tensors
expect "an adapter of another model" exits 3 "$keel" run "$source/tests/data/architectures/qwen3.gguf" --lora "$adapter" -n 1 -q
expect "is refused by name" holds 'general.architecture' err
pre_of() { "$keel" inspect "$1" --metadata | sed -n 's/^tokenizer\.ggml\.pre *"\(.*\)"$/\1/p'; }
expect "a shape" exits 0 "$keel" synth "$work/pre.gguf" --shape smollm2-135m --layers 1 --hollow
expect "has its pre-tokenizer" [ "$(pre_of "$work/pre.gguf")" = smollm ]
expect "or another one" exits 0 "$keel" synth "$work/pre.gguf" --shape tiny --hollow --pre qwen2
expect "also where it would have none" [ "$(pre_of "$work/pre.gguf")" = qwen2 ]
rm -f "$work/pre.gguf"
expect "unknown shape" exits 2 "$keel" synth "$work/x.gguf" --shape enormous
expect "synth refuses what Keel refuses" exits 2 "$keel" synth "$work/x.gguf" --shape tiny --layers 600
expect "and says where" holds 'KEEL_E_FILE_LIMIT.*block_count' err
expect "also without writing" exits 2 "$keel" synth "$work/x.gguf" --shape tiny --layers 600 --dry-run
# Files appear whole or not at all; a device is neither replaced nor read without end.
too_full() { (trap '' XFSZ; ulimit -f 100; "$keel" synth "$work/full/x.gguf" --shape tiny --mix Q8_0 >"$work/out" 2>"$work/err"); [ $? -eq 3 ]; }
mkdir "$work/full"
expect "a full disk" too_full
expect "the system's reason" holds 'File too large' err
expect "nothing is left of it" [ -z "$(ls "$work/full")" ]
expect "a device is no place for a file" exits 3 "$keel" synth /dev/full --shape tiny
expect "and it says so" holds 'no regular file' err
expect "it is still there" [ -c /dev/full ]
for verb in "tokenize $model --file" "run $model --prompt-file" "eval ppl $model"; do
    expect "$verb of a device" exits 3 timeout 20 "$keel" $verb /dev/zero
    expect "$verb says so" holds 'it is a device' err
done
expect "a model that is a device" exits 3 timeout 20 "$keel" inspect /dev/zero
printf '{"text": "The ship sailed on a grey morning."}\n{"text": "Nobody came back to the old harbour."}\n' >"$work/two.jsonl"
expect "eval ppl" exits 0 "$keel" eval ppl "$model" "$work/two.jsonl" --window 64 --json
expect "eval scores both" holds '"documents": 2'
ppl=$(sed -n 's/^  "ppl": \([0-9.]*\).*/\1/p' "$work/out")
expect "ppl of English is below the vocabulary" awk "BEGIN { exit !(${ppl:-0} > 5 && ${ppl:-0} < 2000) }"
# The reference figure of this document is 4.022594 nats (an f32 implementation of another origin, golden.json of the model).
expect "eval of the reference document" exits 0 "$keel" eval ppl "$model" "$2/books-val-sample.jsonl" --documents 1 --json
nll=$(sed -n 's/^  "nll": \([0-9.]*\).*/\1/p' "$work/out")
expect "NLL ${nll:-0} is the reference's" awk "BEGIN { d = ${nll:-0} - 4.022594; exit !(d < 2e-4 && d > -2e-4) }"
expect "eval with strides" exits 0 "$keel" eval ppl "$model" "$work/two.jsonl" --window 8 --stride 4 --json
expect "eval draws of a model and itself" exits 0 "$keel" eval draws "$model" "$model" "$2/books-val-sample.jsonl" --max-tokens 40 --json
expect "draws the same" holds '"same_draw": 1.0'
expect "at so many positions" holds '"positions": 40'
expect "a vocabulary of the same size" exits 0 "$keel" synth "$work/bpe.gguf" --shape tiny --pre qwen2
expect "is another one" exits 2 "$keel" eval draws "$work/tiny.gguf" "$work/bpe.gguf" "$work/two.jsonl"
expect "and that is said" holds 'has another vocabulary' err
for book in one two; do
    sed "1s/^{/{\"source\": \"one\", /; 2s/^{/{\"source\": \"$book\", /" "$work/two.jsonl" >"$work/of_$book.jsonl"
done
expect "draws on chapters of a book" exits 0 "$keel" eval draws "$model" "$model" "$work/of_one.jsonl" --json
expect "are of one source" holds 'over 2 blocks of 64 positions of one source'
expect "draws on two books" exits 0 "$keel" eval draws "$model" "$model" "$work/of_two.jsonl" --json
expect "are of two" holds 'over 2 sources of documents'
expect "nothing is drawn at temperature 0" exits 2 "$keel" eval draws "$model" "$model" "$work/two.jsonl" --temp 0
expect "the window is the context" exits 2 "$keel" eval draws "$model" "$model" "$work/two.jsonl" --context 64
for i in 1 2 3 4 5 6 7 8 9 10; do cat "$2/books-val-sample.jsonl" "$2/books-val-sample.jsonl"; done >"$work/long.jsonl"
expect "Ctrl-C in eval draws" interrupted 3 "$keel" eval draws "$model" "$model" "$work/long.jsonl"
expect "shows what was drawn" holds '^same draw'
expect "a window beyond the context" exits 2 "$keel" eval ppl "$model" "$work/two.jsonl" --window 64 --context 32
expect "bad jsonl" exits 3 bash -c "echo nonsense >'$work/bad.jsonl'; '$keel' eval ppl '$model' '$work/bad.jsonl'"

# Quantize: what is written runs, kept tensors and metadata are what they were, and hostile or wrong input ends in a message.
expect "quantize" exits 0 "$keel" quantize "$model" "$work/q4.gguf" --types "blk.1.*=keep,blk.?.ffn*=keep,token_embd=Q8_0,Q4_K_M" --json
expect "a tensor is Q4_K" bash -c "grep -A 6 '\"name\": \"blk.0.attn_q.weight\"' '$work/out' | grep -q '\"to\": \"Q4_K\"'"
expect "one is kept" bash -c "grep -A 6 '\"name\": \"blk.1.attn_q.weight\"' '$work/out' | grep -q '\"to\": \"F16\"'"
expect "one follows its own rule" bash -c "grep -A 6 '\"name\": \"token_embd.weight\"' '$work/out' | grep -q '\"to\": \"Q8_0\"'"
size=$(sed -n 's/^  "file_bytes": \([0-9]*\),*/\1/p' "$work/out")
written=$(stat -c %s "$work/q4.gguf")
expect "bytes $size are about those of the file, $written" awk "BEGIN { d = $written - ${size:-0}; exit !(d >= 0 && d < 4096) }"
expect "what was quantized can be scored" exits 0 "$keel" eval ppl "$work/q4.gguf" "$work/two.jsonl" --window 64 --against "$model" --json
kl=$(sed -n 's/^    "kl": \([-0-9.e]*\),/\1/p' "$work/out")
expect "and is near its source, KL ${kl:-none}" awk "BEGIN { exit !(${kl:-9} > 1e-5 && ${kl:-9} < 0.05) }"
expect "scored as it is written" exits 0 "$keel" quantize "$model" "$work/tested.gguf" --types "blk.1.*=keep,blk.?.ffn*=keep,token_embd=Q8_0,Q4_K_M" --test "$work/two.jsonl" --test-tokens 64 --json
expect "by the same figures, KL $kl" bash -c "grep -q '^   *\"kl\": ${kl:-none},' '$work/out'"
expect "and it says on which text" bash -c "'$keel' inspect '$work/tested.gguf' --metadata | grep -q 'keel.quantize.test_text'"
expect "no test on what is calibrated on" exits 2 "$keel" quantize "$model" "$work/x.gguf" --types Q4_K --calibrate "$work/two.jsonl" --test "$work/two.jsonl"
expect "to F16 and back is the same" exits 0 "$keel" quantize "$work/q4.gguf" "$work/f16.gguf" --types F16
expect "it says what cannot be undone" holds 'warning: .* quantized already' err
expect "of the same fingerprint where nothing changes" exits 0 "$keel" quantize "$work/q4.gguf" "$work/kept.gguf" --types "*=keep"
expect "kept tensors are the same bytes" bash -c "cmp <(tail -c 4000000 '$work/q4.gguf') <(tail -c 4000000 '$work/kept.gguf')"
expect "rules without a match" exits 2 "$keel" quantize "$model" "$work/x.gguf" --types "Q4_K,blk.99.*=F16"
expect "an unknown type" exits 2 "$keel" quantize "$model" "$work/x.gguf" --types Q9_K
expect "no file over itself" exits 2 "$keel" quantize "$work/q4.gguf" "$work/q4.gguf" --types Q8_0
head -c 3000000 "$model" >"$work/short.gguf"
expect "a file cut short" exits 3 "$keel" quantize "$work/short.gguf" "$work/x.gguf" --types Q8_0
{ head -c 4000000 "$model"; head -c 512 /dev/zero | tr '\0' '\377'; tail -c +4000513 "$model"; } >"$work/nan.gguf"
expect "weights that are no numbers" exits 3 "$keel" quantize "$work/nan.gguf" "$work/x.gguf" --types Q8_0
expect "name the tensor" holds 'weight: a value that is not finite' err
expect "and leave nothing" [ ! -e "$work/x.gguf" ]
calibrated() { "$keel" quantize "$model" "$work/c.gguf" --types "blk.0.ffn_*=IQ4_XS" --calibrate "$work/two.jsonl" --json "$@"; }
expect "calibrated on a text" exits 0 calibrated
expect "outputs are nearer than with nearest codes" bash -c "sed -n 's/.*\"output_error\(_nearest\)*\": \([-0-9.e]*\).*/\2/p' '$work/out' | awk 'NR % 2 { nearest = \$1; next } { n += \$1 < nearest } END { exit n != 3 }'"
expect "the file says which text" bash -c "'$keel' inspect '$work/c.gguf' --metadata | grep -q 'keel.quantize.calibration_text'"
expect "nothing else is left" [ ! -e "$work/c.gguf.calibrated" ]
# The work file takes the place of no file that is read, nor of one that is something else.
for file in model text other; do
    cp "$model" "$work/own.$file.calibrated"
done
cp "$work/two.jsonl" "$work/own.text.calibrated"
printf 'notes' >"$work/own.other.calibrated"
for way in "" "--distill 1"; do
    one=(--types "blk.7.attn_v=Q4_0" --calibration-tokens 64 $way)
    expect "work over the source $way" exits 2 "$keel" quantize "$work/own.model.calibrated" "$work/own.model" --calibrate "$work/two.jsonl" "${one[@]}"
    expect "over the text $way" exits 2 "$keel" quantize "$model" "$work/own.text" --calibrate "$work/own.text.calibrated" "${one[@]}"
    expect "over another file $way" exits 2 "$keel" quantize "$model" "$work/own.other" --calibrate "$work/two.jsonl" "${one[@]}"
    expect "says so $way" holds 'it is another file' err
done
expect "a correction over the work" exits 2 calibrated --correction 4 --correction-output "$work/c.gguf.calibrated"
expect "the source stays" cmp -s "$model" "$work/own.model.calibrated"
expect "the text stays" cmp -s "$work/two.jsonl" "$work/own.text.calibrated"
expect "the other file stays" [ "$(cat "$work/own.other.calibrated")" = notes ]
rm -f "$work"/own.*
expect "channels scaled, and a correction" exits 0 calibrated --scaling --correction 4 --correction-output "$work/c.lora"
expect "that brings errors down" bash -c "sed -n 's/.*\"output_error\(_corrected\)*\": \([-0-9.e]*\).*/\2/p' '$work/out' | awk 'NR % 2 { codes = \$1; next } { n += \$1 < codes } END { exit n != 3 }'"
expect "by its bytes" [ "$(sed -n 's/^    "file_bytes": \([0-9]*\).*/\1/p' "$work/out")" = "$(stat -c %s "$work/c.lora")" ]
expect "says what is not scaled" holds 'note: 7 inputs of ffn_down are not scaled, because ffn_' err
expect "what adapters do is done" exits 0 "$keel" run "$work/c.gguf" --lora "$work/c.lora" --max-tokens 2
expect "with the nearest codes, too" exits 0 calibrated --codes nearest --scaling
expect "but not with plain rounding" exits 2 calibrated --nearest
expect "and that is said" holds '--nearest' err
expect "which alone need no text" exits 2 calibrated --codes nearest
expect "codes of another kind" exits 2 calibrated --codes best
expect "a correction without a file" exits 2 calibrated --correction 4
expect "a file without a correction" exits 2 calibrated --correction-output "$work/x.lora"
expect "a correction of nothing" exits 2 calibrated --correction 0 --correction-output "$work/x.lora"
expect "of too much" exits 2 calibrated --correction 5000 --correction-output "$work/x.lora"
expect "over the model" exits 2 calibrated --correction 4 --correction-output "$work/c.gguf"
expect "over its source" exits 2 "$keel" quantize "$work/q4.gguf" "$work/x.gguf" --types "blk.0.ffn_up=Q3_K" --calibrate "$work/two.jsonl" --correction 4 --correction-output "$work/q4.gguf"
expect "beside training" exits 2 calibrated --scaling --distill 1
expect "of one grid a row" exits 2 calibrated --correction 4 --correction-output "$work/x.lora" --row-step 0.5
expect "without a text" exits 2 "$keel" quantize "$model" "$work/x.gguf" --scaling
expect "and nothing measured" exits 2 calibrated --scaling --dry-run
expect "of an embedding alone" exits 2 "$keel" quantize "$model" "$work/x.gguf" --types "token_embd=Q8_0" --calibrate "$work/two.jsonl" --correction 4 --correction-output "$work/x.lora"
expect "of an input whose readers are kept" exits 2 "$keel" quantize "$model" "$work/x.gguf" --types "blk.0.attn_q=Q4_0" --calibrate "$work/two.jsonl" --scaling
expect "says why" holds 'nothing is scaled: .* keeps its type' err
expect "nor of layers that share weights" exits 3 "$keel" quantize "$source/tests/data/wired/wired.gguf" "$work/x.gguf" --types "blk.*=Q4_0" --calibrate "$work/two.jsonl" --scaling
expect "nothing is left of these" [ ! -e "$work/x.lora" -a ! -e "$work/x.gguf" ]
expect "trellis codes" exits 0 "$keel" quantize "$model" "$work/t.gguf" --types "blk.*=WT3" --json
error=$(sed -n '/blk.0.attn_k/,/relative_error/s/^ *"relative_error": \(0\.0[0-9][0-9]*\).*/\1/p' "$work/out" | head -1)
expect "are as far from the weights as those are, ${error:-none}" awk "BEGIN { exit !(${error:-9} > 0.019 && ${error:-9} < 0.026) }"
expect "are named" bash -c "'$keel' inspect '$work/t.gguf' | grep -q WT3"
expect "and run, rotated" bash -c "'$keel' plan '$work/t.gguf' | grep -q q8_rotated && '$keel' run '$work/t.gguf' -p 'It was' --max-tokens 4 --temp 0"
rules=token_embd=keep
for layer in 1 2 3 4 5 6 7; do rules=$rules,blk.$layer.*=keep; done  # what is left are 786,432 of 7,340,032 weights
printf '{"text": "A light was seen at the end of the street, and then it went out."}\n' >"$work/other.jsonl"
distilled() { "$keel" quantize "$model" "$work/d.gguf" --types "blk.7.attn_v=Q4_0" --calibrate "$work/two.jsonl" --calibration-tokens 64 --distill 1 --distill-last 1 --distill-texts 1 "$@"; }
expect "trained between codes" exits 0 distilled --json
expect "what it is worth is said" holds '"distilled_kl": [0-9.]*[1-9]'
expect "and what the codes are" holds '"output_error": '
expect "the file runs" exits 0 "$keel" run "$work/d.gguf" --max-tokens 2
expect "nothing else is left of it" [ ! -e "$work/d.gguf.calibrated" ]
expect "not of layers that share weights" exits 3 "$keel" quantize "$source/tests/data/wired/wired.gguf" "$work/x.gguf" --types "blk.0.ffn_up=Q4_0" --calibrate "$work/two.jsonl" --distill 1
expect "nor without a text" exits 2 "$keel" quantize "$model" "$work/x.gguf" --distill 1
expect "nor on one grid a row" exits 2 distilled --row-step 0.5
expect "nor at no rate" exits 2 distilled --distill-rate 0
expect "types under a bound" exits 0 "$keel" quantize "$model" "$work/s.gguf" --types "$rules" --bits 14.82 --tune "$work/other.jsonl" --calibrate "$work/two.jsonl" --json
bits=$(sed -n 's/^  "bits": \([0-9.]*\),/\1/p' "$work/out")
expect "bits ${bits:-none} are within it" awk "BEGIN { exit !(${bits:-99} > 14.7 && ${bits:-99} <= 14.82) }"
expect "a bound that nothing meets" exits 2 "$keel" quantize "$model" "$work/x.gguf" --types "$rules" --bits 2 --tune "$work/other.jsonl"
for bound in "--bits 4" "--bytes 4M" "--loss 0.1" "--budget 4000000"; do
    # shellcheck disable=SC2086
    expect "$bound where every type is given" exits 2 "$keel" quantize "$model" "$work/x.gguf" --types Q8_0 $bound --tune "$work/other.jsonl"
    expect "has nothing to choose" holds 'a bound has nothing to choose' err
done
expect "a bound without a text" exits 2 "$keel" quantize "$model" "$work/x.gguf" --bits 4
expect "a text without a bound" exits 2 "$keel" quantize "$model" "$work/x.gguf" --tune "$work/other.jsonl"
expect "a bound below nothing" exits 2 "$keel" quantize "$model" "$work/x.gguf" --bits -3 --tune "$work/other.jsonl"
expect "a bound and nothing measured" exits 2 "$keel" quantize "$model" "$work/x.gguf" --bits 4 --tune "$work/other.jsonl" --dry-run
expect "nor of a budget" exits 2 "$keel" quantize "$model" "$work/x.gguf" --types Q8_0 --budget 4000000 --dry-run
expect "one grid of no row" exits 2 "$keel" quantize "$model" "$work/x.gguf" --row-step 0.3
expect "one text for both" exits 2 "$keel" quantize "$model" "$work/x.gguf" --bits 4 --tune "$work/two.jsonl" --calibrate "$work/two.jsonl"
expect "says why" holds 'a document is both in' err
expect "a text that is not there" exits 3 "$keel" quantize "$model" "$work/x.gguf" --calibrate "$work/none.jsonl"

# A budget: the code and the pack, to the byte; scales are found for it, or types, or it is said by how much it is missed.
head -c 12345 /dev/zero >"$work/code"
budgeted() { "$keel" quantize "$model" "$work/b.gguf" --types Q8_0 --budget "$1" --code "$work/code" --json; }
expect "a budget" exits 0 budgeted 4000000
packed=$(sed -n 's/^    "pack_bytes": \([0-9]*\).*/\1/p' "$work/out")
expect "nearly used by ${packed:-nothing} bytes" [ "${packed:-0}" -le 3987655 -a "${packed:-0}" -gt 3985000 ]
codec=rans
"$keel" pack "$model" "$work/b.keel" --codec zstd >"$work/out.zstd" 2>&1 && codec=auto
expect "text is packed where there is zstd" holds "\"codec\": \"$codec\""
expect "of a pack that keeps it" exits 0 "$keel" pack "$work/b.gguf" "$work/b.keel" --codec $codec --budget 4000000 --code "$work/code"
expect "to the byte" [ "$(stat -c %s "$work/b.keel")" = "${packed:-0}" ]
expect "and not a byte less" exits 4 "$keel" pack "$work/b.gguf" "$work/less.keel" --codec $codec --budget $((${packed:-0} + 12344)) --code "$work/code"
expect "which says by how much" holds ': 1 over' err
expect "and writes nothing" [ ! -e "$work/less.keel" ]
expect "it is scored" exits 0 "$keel" eval ppl "$work/b.keel" "$work/two.jsonl" --window 64 --against "$model" --json
expect "a budget that nothing meets" exits 4 budgeted 200000
expect "and by how much" holds ' over with the coarsest grid' err
expect "nothing is left" [ ! -e "$work/x.gguf" ]
expect "no scales to find" exits 2 "$keel" quantize "$model" "$work/x.gguf" --types Q4_K --budget 4000000
expect "types for a budget" exits 0 "$keel" quantize "$model" "$work/s.gguf" --types "$rules" --budget 13000000 --tune "$work/other.jsonl" --json
packed=$(sed -n 's/^    "pack_bytes": \([0-9]*\).*/\1/p' "$work/out")
expect "kept by ${packed:-no} bytes" [ "${packed:-13000001}" -le 13000000 -a "${packed:-0}" -gt 11000000 ]
expect "types that are too large for one" exits 4 "$keel" quantize "$model" "$work/x.gguf" --types "$rules" --budget 9000000 --tune "$work/other.jsonl"
expect "by so many bytes" holds 'bytes over the budget' err
expect "one grid of this step" exits 0 "$keel" quantize "$model" "$work/g.gguf" --types Q8_0 --row-step 0.3
expect "calibrated" exits 0 "$keel" quantize "$model" "$work/g.gguf" --types "blk.0.ffn_*=Q8_0" --row-step 0.9 --calibrate "$work/two.jsonl" --json
expect "outputs are nearer" bash -c "sed -n 's/.*\"output_error\(_nearest\)*\": \([-0-9.e]*\).*/\2/p' '$work/out' | awk 'NR % 2 { nearest = \$1; next } { n += \$1 < nearest } END { exit n != 3 }'"
expect "a budget, calibrated" exits 0 "$keel" quantize "$model" "$work/g.gguf" --types "blk.0.*=Q8_0" --budget 11600000 --calibrate "$work/two.jsonl" --json
packed=$(sed -n 's/^    "pack_bytes": \([0-9]*\).*/\1/p' "$work/out")
expect "nearly used by ${packed:-nothing} bytes" [ "${packed:-0}" -le 11600000 -a "${packed:-0}" -gt 11599900 ]
expect "by the codes of the file" bash -c "grep -q '\"output_error\"' '$work/out' && '$keel' pack '$work/g.gguf' '$work/g.keel' --codec $codec && [ \$(stat -c %s '$work/g.keel') = ${packed:-0} ]"
expect "nothing else is left" [ -z "$(ls "$work" | grep -e trial -e calibrated)" ]
cp "$model" "$work/own.trial"
expect "a source that has the name of its trial is refused" exits 2 "$keel" quantize "$work/own.trial" "$work/own" --types Q8_0 --budget 11600000
expect "and stays" cmp -s "$model" "$work/own.trial"
rm -f "$work/own.trial"
expect "a dry run" exits 0 "$keel" quantize "$model" "$work/x.gguf" --types IQ4_XS --dry-run
expect "writes nothing" [ ! -e "$work/x.gguf" ]

# The KV laboratory: formats against f16, a profile that a session loads, rows for other tools.
expect "eval kv" exits 0 "$keel" eval kv "$model" "$2/books-val-sample.jsonl" --documents 1 --tokens 96 --formats f16,tcq-3,absmax:4 --decode 4 --largest 0,50 --output "$work/kv.json" --json
expect "f16 against f16 is nothing" bash -c "grep -A 20 '\"name\": \"f16\"' '$work/kv.json' | grep -q '\"delta_nll\": 0.0,'"
expect "the report is also printed" cmp -s "$work/out" "$work/kv.json"
expect "decoding gives the same bits" holds '"tokens_with_other_bits": 0'
expect "only f16 loses nothing" bash -c "grep -A 5 '\"delta_ppl_percent\": 0.0,' '$work/kv.json' | grep -q '\"name\": \"f16\"'"
expect "eval kv against a format" exits 0 "$keel" eval kv "$model" "$2/books-val-sample.jsonl" --documents 2 --tokens 64 --formats tcq-2,tcq-4 --against tcq-2 --json
against=($(grep -A 1 '"against": {' "$work/out" | sed -n 's/.*"delta_ppl_percent": \([-0-9.e]*\),/\1/p'))
differences=($(sed -n 's/^      "delta_nll": \([-0-9.e]*\),/\1/p' "$work/out"))
expect "a format is no other than itself" [ "${against[0]:-1}" = 0.0 ]
expect "differences from the reference subtract" awk "BEGIN { d = ${against[1]:-9} - 100 * (exp(${differences[1]:-0} - ${differences[0]:-0}) - 1); exit !(d < 1e-9 && d > -1e-9) }"
expect "eval kv hears of sinks" exits 0 "$keel" eval kv "$model" "$work/two.jsonl" --formats tcq-2,f16 --kv-sinks 3 --json
expect "which coded rows get" bash -c "grep -A 4 '\"name\": \"tcq-2\"' '$work/out' | grep -q '\"sinks\": 3'"
sed 's/^{/{"kind": "ship", /; 2s/ship/harbour/' "$work/two.jsonl" >"$work/kinds.jsonl"
row_errors() { "$keel" eval kv "$model" "$work/two.jsonl" --formats "$1" --documents "$2" --json | sed -n '/"k_relative_mse"/,/"v_relative_mse"/p'; }
for format in tcq-2 absmax:4; do
    one=$(row_errors "$format" 1)
    expect "row errors of $format" [ -n "$one" ]
    expect "are of the first document" [ "$(row_errors "$format" 2)" = "$one" ]
done
expect "eval kv by kind and prefix" exits 0 "$keel" eval kv "$model" "$work/kinds.jsonl" --formats tcq-2 --prefixes 4 --json
expect "the parts" [ "$(sed -n 's/^          "\(first_tokens\|kind\)": \(.*\),$/\2/p' "$work/out" | tr '\n' ' ')" = '4 "ship" 4 "harbour" 4 null 2048 "ship" 2048 "harbour" ' ]
expect "formats are not named by other options" exits 2 "$keel" eval kv "$model" "$work/two.jsonl" --formats tcq-2 --kv-k tcq-3
expect "what lies below the floor is said" exits 0 "$keel" eval kv "$model" "$work/two.jsonl" --formats kivi:2
expect "the floor itself" holds '^floor .* KL 0.0000'
expect "and few sources, short documents, rows in f16" bash -c "grep -q 'fewer than 12 sources' '$work/out' && grep -q 'are shorter than' '$work/out' && grep -q 'were read in f16' '$work/out'"
expect "against a format that is not there" exits 2 "$keel" eval kv "$model" "$work/two.jsonl" --formats tcq-2 --against tcq-3
expect "an unknown format is a usage error" exits 2 "$keel" eval kv "$model" "$work/two.jsonl" --formats tcq-9
expect "no format is a usage error" exits 2 "$keel" eval kv "$model" "$work/two.jsonl"
expect "a probe beyond the context is a usage error" exits 2 "$keel" eval kv "$model" "$work/two.jsonl" --formats tcq-3 --context 128 --probe 100
expect "nor one that 32 bits do not hold" exits 2 timeout 20 "$keel" eval kv "$model" "$work/two.jsonl" --formats tcq-3 --context 128 --probe 4294967200
expect "beyond the training context" exits 0 "$keel" eval kv "$model" "$work/two.jsonl" --formats tcq-3 --context 2112
expect "and that is said" holds 'extrapolation'
expect "calibrate kv" exits 0 "$keel" calibrate kv "$model" "$2/books-val-sample.jsonl" --documents 1 --tokens 128 --slice-documents 1 --slice-tokens 48 --formats tcq-2,tcq-4 --bits 3.3 --k-scale ls --gains off --output "$work/p.kvp"
small=(--documents 1 --tokens 128 --slice-documents 1 --slice-tokens 16 --formats tcq-2,tcq-4 --k-scale ls --gains off --measurements 8 --kv-sinks 1 --costs "$work/costs.json" --json)
expect "calibrate kv with a budget" exits 0 "$keel" calibrate kv "$model" "$2/books-val-sample.jsonl" --budget 4.8x --output "$work/q.kvp" "${small[@]}"
expect "everything is measured" holds '"measurements": 11,'
expect "a budget holds the rows of recent positions" exits 0 "$keel" calibrate kv "$model" "$2/books-val-sample.jsonl" --budget 3.3x --chunk 64 --kv-recent 16 --documents 1 --tokens 128 --slice-documents 1 --slice-tokens 16 --formats tcq-4,tcq-5 --gains off --measurements 8 --output "$work/q.kvp"
expect "not without room for them" exits 1 "$keel" calibrate kv "$model" "$2/books-val-sample.jsonl" --budget 3.5x --chunk 64 --kv-recent 16 --documents 1 --tokens 128 --slice-documents 1 --slice-tokens 16 --formats tcq-4,tcq-5 --gains off --measurements 8 --output "$work/q.kvp"
expect "a budget of a format with f16 rows beside it" exits 0 "$keel" calibrate kv "$model" "$2/books-val-sample.jsonl" --budget 1.6x --context 256 --chunk 64 --kv-recent 16 --documents 1 --tokens 128 --slice-documents 1 --slice-tokens 16 --formats tcq-4,tcq-5,q8_0 --gains off --measurements 12 --output "$work/q.kvp" --json
ratio=$(sed -n 's/^  "ratio": \([0-9.]*\),*/\1/p' "$work/out")
expect "is kept, by ${ratio:-no} times" awk "BEGIN { exit !(${ratio:-0} >= 1.6) }"
expect "another budget" exits 0 "$keel" calibrate kv "$model" "$2/books-val-sample.jsonl" --bits 3 --output "$work/q.kvp" "${small[@]}"
expect "costs nothing but its own measurement" holds '"measurements": 1,'
expect "costs of another window are refused" exits 2 "$keel" calibrate kv "$model" "$2/books-val-sample.jsonl" --bits 3 --output "$work/q.kvp" "${small[@]}" --slice-tokens 17
sample=$2/books-val-sample.jsonl
costs_as() { "$keel" calibrate kv "$adapted" "$sample" --bits 5 --documents 1 --tokens 32 --slice-documents 1 --slice-tokens 8 --formats e8-4 --gains off --output "$work/as.kvp" --costs "$work/as.json" "$@"; }
expect "costs" exits 0 costs_as
for options in "--lora $adapter" "--lora $adapter:0.5" "--pre gpt-2" "--cpu scalar" "--activation q8"; do
    # shellcheck disable=SC2086
    expect "are others with $options" exits 2 costs_as $options
done
expect "the same else" exits 0 costs_as
expect "calibrate kv shows it" exits 0 "$keel" calibrate kv --show "$work/p.kvp" --json
expect "both formats are used" bash -c "grep -q tcq-2 '$work/out' && grep -q tcq-4 '$work/out'"
bits=$(sed -n 's/.*"bits_per_element": \([0-9.]*\).*/\1/p' "$work/out")
expect "the budget is kept" awk "BEGIN { exit !(${bits:-9} <= 3.3 && ${bits:-9} > 3) }"
expect "reports say who chose the formats" exits 0 "$keel" plan "$model" --no-ops --no-map --kv-profile "$work/p.kvp"
expect "the profile did" holds '(K profile, V profile)'
expect "and its means are counted" holds 'means, gains and tables of the KV formats: [1-9]'
expect "and the first position's row" holds '^rows of sinks and recent positions: 4.0 KiB a session'
expect "a named format goes before the profile's" exits 0 "$keel" plan "$model" --no-ops --no-map --kv-profile "$work/p.kvp" --kv-k e8-4 --json
expect "K is the named one" holds '"k_format": "e8-4"'
expect "V the profile's" holds '"v_format": "profile"'
expect "the search keeps the profile's formats" exits 0 "$keel" plan "$model" --memory 64M --kv-profile "$work/p.kvp"
expect "and the line to run names it" holds "^keel run .* --context 2048 --weights default --kv-profile $work/p.kvp"
expect "not others" bash -c "! grep -q -e ' f16 ' -e 'kv-k' '$work/out'"
expect "eval with a profile" exits 0 "$keel" eval ppl "$model" "$work/two.jsonl" --window 64 --kv-profile "$work/p.kvp" --json
expect "says so" holds '"k_format": "profile"'
expect "bench with a profile" exits 0 "$keel" bench "$model" --prefill 8 --decode 2 --steps 0 --budget-us 0 --repeats 1 --stream-mib 8 --kv-profile "$work/p.kvp" --json
expect "says so too" holds '"v_format": "profile"'
expect "a session loads it" exits 0 "$keel" run "$model" --prompt "The sea" --max-tokens 4 --kv-profile "$work/p.kvp" --json
expect "eval kv with it" exits 0 "$keel" eval kv "$model" "$work/two.jsonl" --kv-profile "$work/p.kvp" --formats profile,tcq-2
"$keel" pack "$model" "$work/p.keel" --kv-profile "$work/p.kvp" --codec auto >"$work/out" 2>"$work/err"
formats_of() { "$keel" eval kv "$1" "$work/two.jsonl" --formats f16,tcq-2,tcq-2@none --json | sed -n '/"formats"/,$p'; }
expect "a pack's own profile is used by no format of eval kv" [ "$(formats_of "$work/p.keel")" = "$(formats_of "$model")" ]
head -c 200 "$work/p.kvp" >"$work/cut.kvp"
expect "a cut profile is refused" exits 3 "$keel" run "$model" --max-tokens 1 --kv-profile "$work/cut.kvp"
expect "and cannot be shown" exits 3 "$keel" calibrate kv --show "$work/cut.kvp"
expect "two budgets are a usage error" exits 2 "$keel" calibrate kv "$model" "$work/two.jsonl" --bits 3 --kl 0.1 --output "$work/q.kvp"
one=(--documents 1 --tokens 64 --slice-documents 1 --slice-tokens 16 --formats tcq-4 --gains off --k-scale ls --output "$work/one.kvp")
expect "one format within a budget" exits 0 "$keel" calibrate kv "$model" "$work/two.jsonl" --budget 3x "${one[@]}"
expect "and beyond it" exits 1 "$keel" calibrate kv "$model" "$work/two.jsonl" --budget 10x "${one[@]}"
expect "and beyond a KL" exits 1 "$keel" calibrate kv "$model" "$work/two.jsonl" --kl 0.0000001 "${one[@]}"
expect "formats are not named twice" exits 2 "$keel" calibrate kv "$model" "$work/two.jsonl" --budget 3x --kv-k tcq-3 "${one[@]}"
# A large K bias: native formats remove it before RoPE, unless a profile says otherwise. Random weights: KL is what tells.
bias_is_worth() {  # bias_is_worth GAIN MODEL: KL grows by this factor when the bias is left in
    "$keel" calibrate kv "$2" "$model_text" --documents 1 --tokens 128 --slice-documents 1 --slice-tokens 16 --uniform tcq-3 --no-key-means --no-value-means --gains off \
        --k-scale ls --output "$work/bias.kvp" >/dev/null || return 1
    "$keel" eval kv "$2" "$model_text" --documents 2 --tokens 256 --reference f32 --formats "k=tcq-3:v=f32,k=tcq-3:v=f32@$work/bias.kvp" --json >"$work/out" || return 1
    local kl=($(sed -n 's/^      "kl_mean": \([0-9.e-]*\),/\1/p' "$work/out"))
    echo "KL ${kl[0]} with the bias removed, ${kl[1]} with it left in: ${2##*/}"
    awk "BEGIN { exit !(${kl[0]:-9} > 0 && ${kl[0]:-9} * $1 < ${kl[1]:-0}) }"
}
model_text=$2/books-val-sample.jsonl
expect "the bias is removed" bias_is_worth 1.5 "$source/tests/data/architectures/qwen2-mqa-tied.gguf"
if [ -f "$shared/conformance/models/qwen2-bias-tied-f16.gguf" ]; then
    expect "the bias is removed, two KV heads" bias_is_worth 1.3 "$shared/conformance/models/qwen2-bias-tied-f16.gguf"
else
    echo "skipped: $shared/conformance/models/qwen2-bias-tied-f16.gguf is not there"
fi
# Learning while reading: token by token as in chunks, and controls that are other texts.
learned() {
    "$keel" eval learn "$model" "$model_text" --documents 1 --max-tokens 120 --rate 0.003 --json "$@" >"$work/out" || return 1
    sed -n 's/^      "\(frozen\|matrix\|mixture\)": //p' "$work/out" | tr -d '\n'
}
read_at_once=$(learned)
expect "decoding learns the same" [ "$(learned --decode)" = "${read_at_once:-nothing}" ]
expect "and says what it costs" holds '"times_decode"'
expect "shuffled is another text" [ "$(learned --shuffled)" != "$read_at_once" ]
expect "tokens at random" learned --random
expect "are predicted by nothing" awk "BEGIN { exit !($(sed -n 's/^      "frozen": \([0-9.]*\).*/\1/p' "$work/out") > 120 * 9) }"
expect "a window of one token" exits 0 timeout 60 "$keel" eval learn "$model" "$work/two.jsonl" --documents 1 --window 1 --json
expect "learning from chapters of a book" exits 0 "$keel" eval learn "$model" "$work/of_one.jsonl" --json
expect "is of one source" holds '"sources": 1'
expect "one control at a time" exits 2 "$keel" eval learn "$model" "$model_text" --random --shuffled
expect "capture kv" exits 0 "$keel" capture kv "$model" "$2/books-val-sample.jsonl" --tokens 32 --output "$work/rows.safetensors" --json
expect "all layers are captured" holds '"tensors": 35'
expect "the header names them" grep -q -a '"layers.7.q_after_rope":{"dtype":"F32","shape":\[32,4,64\]' "$work/rows.safetensors"
expect "capture into nowhere" exits 3 "$keel" capture kv "$model" "$work/two.jsonl" --output "$work/no/such/place"
expect "capture trace" exits 0 "$keel" capture trace "$model" "$2/books-val-sample.jsonl" --documents 2 --tokens 40 --output "$work/text.trace" --json
expect "a tape has every step" holds '"steps": 80'
expect "its size is that of its states" [ "$(wc -c <"$work/text.trace")" -eq $((40 + 80 * (12 + 2 * 256))) ]
expect "capture answers" exits 0 "$keel" capture trace "$model" "$work/two.jsonl" --generate 6 --sessions 2 --dim 16 --output "$work/answers.trace" --json
# The second prompt is long: its answer meets the end of the context first.
printf '{"text": "The ship"}\n{"text": "The ship sailed on a grey morning, and nobody on the quay saw it leave."}\n{"text": "Nobody came back."}\n{"text": "Rain"}\n' >"$work/four.jsonl"
for sessions in 1 3; do
    expect "answers of $sessions sessions" exits 0 "$keel" capture trace "$model" "$work/four.jsonl" --generate 60 --temperature 0.8 --sessions $sessions --context 40 --dim 16 --output "$work/of$sessions.trace"
done
expect "the same tape of several sessions" cmp "$work/of1.trace" "$work/of3.trace"
expect "geometry protocol" exits 0 "$keel" geometry protocol --json
expect "a sphere's slope" holds 'flow 2.0'
expect "capture a pool" exits 0 "$keel" capture pool "$model" "$work/two.jsonl" --generate 30 --bytes 65536 --output "$work/books.kpool" --json
expect "of all answers" holds '"prompts": 2'
# Of this model an empty message has no token.
printf '{"text": ""}\n' | cat "$work/two.jsonl" - >"$work/empty.jsonl"
for text in two empty; do
    expect "answers to $text" exits 0 "$keel" capture trace "$adapted" "$work/$text.jsonl" --generate 6 --sessions 2 --dim 16 --output "$work/$text.trace"
    expect "a pool of $text" exits 0 "$keel" capture pool "$adapted" "$work/$text.jsonl" --generate 6 --bytes 65536 --output "$work/$text.kpool"
done
expect "an empty message has no answer" cmp "$work/two.trace" "$work/empty.trace"
expect "nor in a pool" cmp "$work/two.kpool" "$work/empty.kpool"
{ for _ in $(seq 1000); do cat "$work/two.jsonl"; done; printf '{"text": "%s"}\n' "$(printf 'word %.0s' $(seq 200))"; } >"$work/too_long.jsonl"
expect "a message too long is seen before answers" exits 2 timeout 20 "$keel" capture pool "$model" "$work/too_long.jsonl" --generate 64 --context 96 --output "$work/no.kpool"
expect "a pool to draft from" [ "$(run --seed 7 --draft 5 --draft-pool "$work/books.kpool")" = "$first" ]
head -c 4000 "$work/books.kpool" >"$work/cut.kpool"
expect "a cut pool is refused" exits 3 "$keel" run "$model" --draft 3 --draft-pool "$work/cut.kpool"
expect "capture for records" exits 0 "$keel" capture trace "$model" "$2/books-val-sample.jsonl" --documents 4 --tokens 60 --output "$work/four.trace" --json
expect "geometry build" exits 0 "$keel" geometry build "$work/four.trace" --waypoints 2 --output "$work/four.records" --json
expect "all steps that two tokens follow" holds '"records": 232'
expect "geometry measure" exits 0 "$keel" geometry measure "$work/four.trace" --queries "$work/text.trace" --json
expect "texts of the store are found again" holds '"steps": 76'
expect "by more than the table, with an interval" holds '"beyond_the_table_95": \['
expect "and what that would be worth" holds '"and_records": 1\.'
expect "costs of four steps are needed" exits 2 "$keel" geometry measure "$work/four.trace" --queries "$work/text.trace" --costs 1,1.1,1.2
head -c 9000 "$work/four.records" >"$work/cut.records"
expect "cut records" exits 3 "$keel" geometry ready "$model" "$work/two.jsonl" --tokens 24 --records "$work/cut.records" --output "$work/no.json"
expect "no tape" exits 3 "$keel" geometry build "$work/two.jsonl" --output "$work/no.records"
expect "geometry interpolate" exits 0 "$keel" geometry interpolate "$model" "$2/books-val-sample.jsonl" --documents 4 --tokens 60 --json
expect "half is scored" holds '"tokens": 118'
expect "geometry ready" exits 0 "$keel" geometry ready "$model" "$work/two.jsonl" --tokens 24 --records "$work/four.records" --output "$work/ready.json"
expect "the answers are identical" grep -q '"ready": true' "$work/ready.json"
expect "asked again" exits 0 "$keel" geometry ready "$model" "$work/two.jsonl" --tokens 24 --records "$work/four.records" --output "$work/ready.json"
expect "it is not made anew" holds 'already: consistency 1.0000'
printf '{"text": "Rain"}\n' >"$work/rain.jsonl"
ready_as() {  # ready_as OPTIONS...: the report of a run, and whether another one takes it for its own
    "$keel" geometry ready "$adapted" "$work/rain.jsonl" --tokens 2 --output "$work/ready_as.json" "$@" >"$work/out" 2>"$work/err"
}
for options in "--kv-k tcq-4 --kv-v tcq-4" "--kv-sinks 3" "--kv-recent 16" "--activation f32" "--cpu scalar" "--context 96" "--lora $adapter" "--lora $adapter:0.5" "--pre gpt-2"; do
    rm -f "$work/ready_as.json"
    expect "ready" ready_as
    # shellcheck disable=SC2086
    expect "ready with $options" ready_as $options
    expect "is another run" bash -c "! grep -q already '$work/out'"
    # shellcheck disable=SC2086
    expect "ready with $options again" ready_as $options
    expect "is the same" holds already
done
expect "foreign records" exits 3 "$keel" geometry ready "$work/tiny.gguf" "$work/two.jsonl" --records "$work/four.records" --output "$work/no.json"
expect "projected" [ "$(($(wc -c <"$work/answers.trace") % 44))" -eq 40 ]
expect "bench" exits 0 "$keel" bench "$work/tiny.gguf" --prefill 16 --decode 4 --steps 5 --position 8 --repeats 2 --stream-mib 8 --json
expect "bench reports a stream" holds '"percent_of_stream"'
expect "bench reports a histogram" holds '"low_us_and_count"'
expect "bench of lists" exits 0 "$keel" bench "$work/tiny.gguf" --prefill 8,16 --depth 32,0 --decode 4 --sessions 3 --steps 0 --budget-us 0 --repeats 2 --stream-mib 8 --json
expect "two prompts" [ "$(sed -n '/"prefill": \[/,/\]/p' "$work/out" | grep -c '"tokens"')" -eq 2 ]
expect "two depths, one session and three" [ "$(sed -n 's/ *"\(depth\|sessions\)": \([0-9]*\),/\2/p' "$work/out" | tr '\n' ' ')" = "32 1 32 3 0 1 0 3 " ]
expect "no step was asked for" bash -c "! grep -q '\"step\"' '$work/out'"
expect "bench beyond its context" exits 2 "$keel" bench "$work/tiny.gguf" --context 64 --depth 60 --decode 5

# W_proj caches: what files hold, packing there and back, manifests, discovery.
cp "$2/../../tests/fuzz/corpus/wproj/version-1" "$work/ott_wproj_cache_89ABCDEF.bin"
cp "$2/../../tests/fuzz/corpus/wproj/version-2" "$work/two.wproj"
expect "wproj inspect" exits 0 "$keel" wproj inspect "$work/two.wproj"
expect "ranks and types are shown" holds 'attn_in Pt *Q8_0 *32 x 32'
expect "wproj inspect, version 1" exits 0 "$keel" wproj inspect "$work/ott_wproj_cache_89ABCDEF.bin" --json
expect "its key" holds '"key": "0123456789abcdef"'
expect "for another model" exits 3 "$keel" wproj inspect "$work/two.wproj" --model "$model"
expect "verified against another model" exits 3 "$keel" wproj verify "$work/two.wproj" --model "$model"
head -c 3000 "$work/two.wproj" >"$work/cut.wproj"
expect "a cut cache is refused" exits 3 "$keel" wproj inspect "$work/cut.wproj"
if "$keel" wproj pack "$work/two.wproj" "$work/two.packed" >"$work/out" 2>"$work/err"; then
    expect "a packed cache is shown" exits 0 "$keel" wproj inspect "$work/two.packed"
    expect "and says so" holds 'WPROJV02, packed'
    expect "wproj unpack" exits 0 "$keel" wproj unpack "$work/two.packed" "$work/again.wproj"
    expect "packing loses nothing" cmp -s "$work/two.wproj" "$work/again.wproj"
else
    expect "without zstd it says so" holds 'no zstd' err
fi
expect "manifest write" exits 0 "$keel" wproj manifest write "$work" --output "$work/inventory.json"
expect "manifest list" exits 0 "$keel" wproj manifest list "$work/inventory.json"
expect "the cache is listed" holds '^ott_wproj_cache_89ABCDEF.bin'
expect "manifest check" exits 0 "$keel" wproj manifest check "$work/inventory.json" "$work"
printf 'x' >>"$work/ott_wproj_cache_89ABCDEF.bin"
expect "another size is noticed" exits 3 "$keel" wproj manifest check "$work/inventory.json" "$work" --no-hash
expect "nothing fits the model" exits 3 "$keel" wproj find "$model" --file "$work" --force --json
expect "and it says what it saw" holds '"verdict": '

# Made-up caches of the tiny shape (2 layers, 256 columns, 256 + 128 + 128 rows): bytes as the format says, sound, and of use.
if "$keel" wproj synth "$work/tiny.gguf" --rank 64 --published -o "$work/tiny.bin" >"$work/out" 2>"$work/err"; then
    layer=$((16 + 8 * 4 + 64 * 256 * 4 + 64 * 4 + 256 * 4 + 3 * 40 + (256 + 128 + 128) * 2 * 36))
    expect "as many bytes as published" [ "$(stat -c %s "$work/tiny.bin")" -eq $((32 + 2 * layer)) ]
    expect "the published form" exits 0 "$keel" wproj inspect "$work/tiny.bin" --model "$work/tiny.gguf"
    expect "it is version 1" holds 'WPROJV01'
    # Q8_0 weights, 34 bytes for 32, of 512 rows of 256, over 4 bytes of 256 columns and 36/32 of 512 rows: 87.04
    expect "break-even rank" holds 'attn_in Pt *F32 *64 x 256 *64 *87 '
    expect "Pt and mu" exits 0 "$keel" wproj verify "$work/tiny.bin" --model "$work/tiny.gguf"
    expect "nothing is broken" holds ' 0 broken'
    expect "rows of Pt and mu are as they should be" bash -c "! grep -E ' Pt .* (rows are not|mu is not)' '$work/out'"
    synth() { "$keel" wproj synth "$work/tiny.gguf" --rank 64 --groups qkv,o,ffn,down --type Q4_0 "$@" -o "$work/tiny.wproj" >"$work/out" 2>"$work/err" && tail -c 10000 "$work/tiny.wproj" | cksum; }  # the header has the key
    one=$(synth --seed 3)
    expect "a cache of version 2" [ -n "$one" ]
    expect "same seed, same cache" [ "$(synth --seed 3)" = "$one" ]
    expect "another seed, another cache" [ "$(synth --seed 4)" != "$one" ]
    expect "made for the model" exits 0 "$keel" wproj verify "$work/tiny.wproj" --model "$work/tiny.gguf"
    expect "all of it" holds '22 parts, 0 broken.*made for this model'
    expect "the low-rank variant" exits 0 "$keel" run "$work/tiny.gguf" --wproj "$work/tiny.wproj" --low-rank --prompt abc --max-tokens 4 --json
    expect "it generates" holds '"generated_tokens": 4'
    expect "both variants by turns" exits 0 "$keel" bench "$work/tiny.gguf" --wproj "$work/tiny.wproj" --prefill 0 --decode 0 --steps 0 --budget-us 0 --position 8 --turns 6 --repeats 1 --stream-mib 8
    expect "their bytes are compared" holds 'by turns: .* of the time .* of the bytes'
    expect "turns need a cache" exits 2 "$keel" bench "$work/tiny.gguf" --turns 6 --stream-mib 8
    expect "half a block" exits 2 "$keel" wproj synth "$work/tiny.gguf" --rank 40 -o "$work/no.wproj"
    expect "more rank than columns" exits 2 "$keel" wproj synth "$work/tiny.gguf" --rank 288 -o "$work/no.wproj"
    expect "no basis for down in version 1" exits 2 "$keel" wproj synth "$work/tiny.gguf" --rank 32 --published --groups down -o "$work/no.wproj"
else
    expect "without Eigen it says so" holds 'without Eigen' err
fi

# W_proj caches from a text to tokens, in a directory where nothing else lies.
mkdir "$work/caches" "$work/nowhere"
in_caches() { (cd "$work/caches" && XDG_CACHE_HOME=$work/nowhere "$@"); }
if "$keel" wproj build "$model" --rank nothing 2>&1 | grep -q 'without Eigen'; then
    expect "build without Eigen is a usage error" exits 2 "$keel" wproj build "$model" --rank 64
else
    small=(--documents 3 --tokens 96 --held-out 1 --groups qkv --rank 0.25 --no-sensitivities --bound 0.5)
    expect "no cache yet" exits 3 in_caches "$keel" run "$model" --wproj auto --low-rank --max-tokens 1
    expect "and it says what to do" holds 'keel wproj build' err
    expect "--low-rank alone is a usage error" exits 2 "$keel" run "$model" --low-rank --max-tokens 1
    expect "whitened needs a text" exits 2 "$keel" wproj build "$model" --rank 64
    expect "a rank or a budget is needed" exits 2 "$keel" wproj build "$model" "$model_text" --documents 3 --tokens 32 --held-out 1
    expect "an unknown group is a usage error" exits 2 "$keel" wproj build "$model" "$model_text" --rank 64 --groups qv
    expect "a text that is not there" exits 3 "$keel" wproj build "$model" "$work/none.jsonl" --rank 64
    expect "wproj build" exits 0 in_caches "$keel" wproj build "$model" "$model_text" "${small[@]}" --json
    expect "every record is kept" holds '"records": 24'
    expect "and its quality known" holds '"nll_low_rank"'
    key=$(sed -n 's/^  "key": "\([0-9a-f]*\)".*/\1/p' "$work/out")
    cache=$(echo "$work"/caches/*.bin)
    expect "one file, nothing half written" [ "$(ls -A "$work/caches")" = "$(basename "$cache")" ]
    expect "the same again is there already" exits 0 in_caches "$keel" wproj build "$model" "$model_text" "${small[@]}"
    expect "and that is said" holds "has this key already: $key"
    expect "built again elsewhere" exits 0 "$keel" wproj build "$model" "$model_text" "${small[@]}" --rebuild --threads 1 --output "$work/again.bin"
    expect "it has the same bytes" cmp -s "$cache" "$work/again.bin"
    expect "inspect what was built" exits 0 "$keel" wproj inspect "$cache" --model "$model"
    expect "its ranks" holds '64 x 256'
    expect "verify what was built" exits 0 "$keel" wproj verify "$cache" --model "$model" --json
    expect "nothing is broken" holds '"broken": 0'
    expect "find it" exits 0 in_caches "$keel" wproj find "$model"
    expect "by its key" exits 0 in_caches "$keel" wproj find "$model" --key "$key"
    expect "not by another" exits 3 in_caches "$keel" wproj find "$model" --key 1
    expect "plan with it" exits 0 "$keel" plan "$model" --wproj "$cache" --json
    expect "the plan uses it" holds '"factors": 24'
    expect "plan in words" exits 0 "$keel" plan "$model" --wproj "$cache"
    expect "the pass and its products" holds 'factor, error'
    expect "a smaller error is asked for" exits 0 "$keel" plan "$model" --wproj "$cache" --wproj-error 0.000001 --json
    expect "then none is used" holds '"factors": 0'
    dense=$(run --temp 0)
    expect "run in the low-rank variant" exits 0 in_caches "$keel" run "$model" --prompt "The sea" --max-tokens 24 --temp 0 --wproj auto --low-rank
    expect "another text than the dense variant gives" [ "$(cat "$work/out")" != "$dense" ]
    expect "and nothing allocated" holds 'after init: 0' err
    low=$(cat "$work/out")
    expect "however it is computed" exits 0 in_caches "$keel" run "$model" --prompt "The sea" --max-tokens 24 --temp 0 --wproj auto --low-rank --threads 1 --chunk 2 --weights map
    expect "the same text" [ "$(cat "$work/out")" = "$low" ]
    expect "the dense variant beside it" exits 0 in_caches "$keel" run "$model" --prompt "The sea" --max-tokens 24 --temp 0 --wproj auto
    expect "is as it was" [ "$(cat "$work/out")" = "$dense" ]
    expect "eval in the low-rank variant" exits 0 "$keel" eval ppl "$model" "$work/two.jsonl" --window 64 --wproj "$cache" --low-rank --json
    expect "another figure" bash -c "! grep -q '\"ppl\": $ppl' '$work/out' && grep -q '\"ppl\": ' '$work/out'"
    expect "bench in the low-rank variant" exits 0 "$keel" bench "$model" --prefill 8 --decode 2 --steps 0 --budget-us 0 --repeats 1 --stream-mib 8 --wproj "$cache" --low-rank --json
    expect "an adapter is for the dense variant" exits 2 "$keel" run "$model" --wproj "$cache" --low-rank --lora "$work/c.lora" -n 1
    expect "also where the other one drafts" exits 2 "$keel" run "$model" --wproj "$cache" --draft 2 --draft-low-rank --lora "$work/c.lora" -n 1
    expect "or takes turns" exits 2 "$keel" bench "$model" --wproj "$cache" --turns 1 --lora "$work/c.lora" --prefill 0 --decode 0 --steps 0 --budget-us 0 --repeats 1 --stream-mib 8
    expect "compare" exits 0 "$keel" wproj compare "$model" "$model_text" --documents 1 --tokens 48 --cache "$cache" --rounds 1 --json
    expect "quality and speed" bash -c "grep -q '\"kl\": 0.0' '$work/out' && grep -q '\"tokens_per_s\"' '$work/out'"
    expect "nothing to compare" exits 2 "$keel" wproj compare "$model" "$model_text" --documents 1 --tokens 32

    # Damaged, cut, of another model: said by the plan, refused where the low-rank variant is asked for, no hindrance elsewhere.
    cp "$cache" "$work/damaged.bin"
    printf '\xff' | dd of="$work/damaged.bin" bs=1 seek=200 conv=notrunc 2>/dev/null
    head -c 5000 "$cache" >"$work/half.bin"
    for bad in damaged half; do
        expect "plan with a $bad cache" exits 0 "$keel" plan "$model" --wproj "$work/$bad.bin" --no-ops --no-map
        expect "says why it is not used: $bad" holds 'W_proj cache: not used, KEEL_E_FILE_.* at byte [0-9]*: .'
        expect "low-rank with a $bad cache" exits 3 "$keel" run "$model" --max-tokens 1 --wproj "$work/$bad.bin" --low-rank
        expect "the dense variant without it: $bad" exits 0 "$keel" run "$model" --prompt "The sea" --max-tokens 24 --temp 0 --wproj "$work/$bad.bin"
        expect "gives its text: $bad" [ "$(cat "$work/out")" = "$dense" ]
        expect "inspect of a $bad cache" exits 3 "$keel" wproj inspect "$work/$bad.bin"
    done
    expect "another model's" exits 3 "$keel" run "$work/tiny.gguf" --max-tokens 1 --wproj "$cache" --low-rank
    expect "a cache that is not there" exits 3 "$keel" run "$model" --max-tokens 1 --wproj "$work/none.bin"

    # Ctrl-C: its own exit code, and no file.
    mkdir "$work/stopped"
    (cd "$work/stopped" && exec "$keel" wproj build "$model" "$model_text" --documents 4 --held-out 2 --groups qkv,o,ffn,down --budget 0.5 >"$work/out" 2>"$work/err") &
    building=$!
    for _ in $(seq 100); do grep -q -i '^SigCgt:.*[2367abef]$' "/proc/$building/status" 2>/dev/null && break; sleep 0.02; done
    kill -INT $building
    wait $building
    expect "a stopped build says so" [ $? -eq 5 ]
    expect "and leaves nothing" [ -z "$(ls -A "$work/stopped")" ]
fi

[ $failures -eq 0 ] || { echo "$failures failed"; exit 1; }
echo "all passed"
