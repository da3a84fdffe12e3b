#!/usr/bin/env bash
# What needs a GPU, for a machine that is there for minutes and reaches no package index:
#
#     bash benchmarks/on_gpu.sh pack DATA STEP   here: put what a step needs into .carry: wheels, sentences, the corpus
#     bash benchmarks/on_gpu.sh measure          there: the tests marked gpu, then benchmarks.gpu
#     bash benchmarks/on_gpu.sh pretrain         there: a base model from the corpus, by examples/pretrain
#     bash benchmarks/on_gpu.sh second           there: its second stage, the recipe `search`, and what steps of it take
#     bash benchmarks/on_gpu.sh --tiny           all of it on a CPU in two minutes, to see that it runs
#
# Results go to $OUT (by default the folder on-gpu), each as soon as it is there. A step that fails does not keep the
# next ones from running; the exit status tells whether all went well. The model comes in pieces of 15 MB, as large as
# some ways back allow: `cat on-gpu/model.tar.* | tar x`.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-on-gpu}
PYTHON=${PYTHON:-python3}
MINUTES=${MINUTES:-5}   # of pretraining, and about so many of the second stage
BASE=${BASE:-.pretrained}
TARGET=${TARGET:-3.12}  # Python there
MOST=64                 # MiB that travel, tracked files included
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=true
WHEELS="datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19 faiss-cpu==1.15.1 sentencex==1.0.32
  pytorch-metric-learning==2.9.0"
SENTENCES=corpus/mirror_corpus/stsbenchmark_train_10k_sents_random_sampled.txt.gz
FIGURES=(--rounds 2)
# 15 million parameters.
MODEL=(--tokenizer sentence_transformers_mirror/embedded --layers 6 --width 384 --heads 6 --inner 768 --length 256
  --batch 512 --mask 0.3 --rate 3e-3 --fall 0.15 --compile)
SECOND=()
DOCUMENTS=64000  # of the corpus, about
failed=0

fail() {
  echo "on_gpu.sh: $*" >&2
  failed=1
}

# Run a command; its output goes into a file of its own, too.
step() {
  local name=$1 begun=$SECONDS
  shift
  echo "== $name"
  "$@" 2>&1 | tee "$OUT/$name.log" || fail "$name failed"
  echo "== $name took $((SECONDS - begun)) s"
}

# A command for at most so many seconds.
within() { timeout --kill-after=10 "$@"; }

train() {
  within "$1" "$PYTHON" examples/pretrain/pretrain.py --text .carry/corpus.txt.xz --output .pretrained "${MODEL[@]}" \
    "${@:2}"
}

# One step at a time: faiss, the model of the package and the tokens of the corpus together are too much.
pack() {
  local data=$1 step=$2 tags=() platform
  rm -rf .carry && mkdir -p .carry/wheels
  for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
    tags+=(--platform "${platform}_x86_64")
  done
  if [ "$step" = pretrain ]; then
    # Tokens are smaller than their text, and made sooner here than there.
    rm -rf .pretrained
    ln -s "$data/pretrain/corpus.txt.xz" .carry/ && train 600 --prepare || fail "the corpus could not be read"
    rm -f .carry/corpus.txt.xz
    XZ_OPT=-9e tar cJf .carry/work.tar.xz -C .pretrained work && rm -rf .pretrained
  else
    [ "$step" = measure ] || WHEELS=${WHEELS/faiss-cpu==* sentencex/sentencex}
    # shellcheck disable=SC2086
    "$PYTHON" -m pip download -q --no-deps --only-binary=:all: --python-version "$TARGET" --implementation cp \
      "${tags[@]}" -d .carry/wheels $WHEELS || fail "wheels are missing"
    mkdir -p "$(dirname ".carry/data/$SENTENCES")"
    cp "$data/$SENTENCES" ".carry/data/$SENTENCES" || fail "the sentences are missing"
  fi
  [ "$step" != second ] || cp "$data/pretrain/corpus.txt.xz" .carry/ || fail "the corpus is missing"
  local mib=$((($(git ls-files -z | du -ck --files0-from=- | tail -1 | cut -f1) + $(du -sk .carry | cut -f1)) / 1024))
  echo "$mib MiB travel"
  [ "$mib" -lt "$MOST" ] || fail "more than $MOST MiB"
}

# What the machine lacks goes into a folder of its own; what it has stays as it is.
unpack() {
  mkdir -p "$OUT" .pretrained
  [ -d .site ] || [ -z "$(ls .carry/wheels)" ] || "$PYTHON" -m pip install -q --no-index --no-deps --no-compile \
    --no-cache-dir --target .site .carry/wheels/*.whl || fail "wheels could not be installed"
  export PYTHONPATH=$PWD:$PWD/.site
  [ -d .pretrained/work ] || [ ! -e .carry/work.tar.xz ] || tar xJf .carry/work.tar.xz -C .pretrained ||
    fail "the corpus could not be unpacked"
}

measure() {
  unpack
  {
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
    nproc
    "$PYTHON" -m pip list 2>/dev/null | grep -iE "^(torch|transformers|sentence|tokenizers|numpy|accelerate|triton)"
  } >"$OUT/machine.txt" 2>&1
  step tests within 240 "$PYTHON" -m pytest -q -n 0 -m gpu tests/test_gpu.py
  step figures within 300 "$PYTHON" -m benchmarks.gpu --data .carry/data --output "$OUT/gpu.json" "${FIGURES[@]}"
}

# The model so far, whole at any time, since its files are exchanged and not written over.
keep_model() {
  tar cf "$1.tar" -C "$1" model.safetensors config.json tokenizer.json tokenizer_config.json &&
    rm -f "$OUT"/model.tar.* && split -b 15000000 "$1.tar" "$OUT/model.tar."
}

pretrain() {
  unpack
  (while sleep 50; do keep_model .pretrained; done) &
  local copies=$!
  step pretrain train "$(awk "BEGIN {print int(60 * $MINUTES + 150)}")" --minutes "$MINUTES"
  kill "$copies"
  keep_model .pretrained && cp .pretrained/pretrain.json "$OUT/" || fail "there is no model"
}

second() {
  unpack
  step documents within 90 "$PYTHON" -m benchmarks.gpu --data .carry/data --output "$OUT/gpu.json" --parts documents \
    "${FIGURES[@]}" --rounds 1
  local epochs
  epochs=$("$PYTHON" -c "
import json
row = json.load(open('$OUT/gpu.json'))['result']['documents']['result'][-1]
print(max(1, int(60 * $MINUTES * row['documents a step'] / row['seconds a step of mirror_tune'] / $DOCUMENTS)))")
  # Ctrl-C ends tuning with the model as it is then.
  step second timeout --signal=INT --kill-after=30 "$(awk "BEGIN {print int(75 * $MINUTES + 45)}")" "$PYTHON" \
    examples/pretrain/second_stage.py --model "$BASE" --text .carry/corpus.txt.xz --output .second --epochs "$epochs" \
    "${SECOND[@]}"
  keep_model .second || fail "there is no model"
  step epoch within 180 "$PYTHON" -m benchmarks.gpu --data .carry/data --output "$OUT/gpu.json" --parts epoch \
    "${FIGURES[@]}" --groups 2
}

# All of the above with a small model, on texts that are made up.
tiny() {
  local data
  data=$(mktemp -d) && mkdir -p "$data/pretrain" "$(dirname "$data/$SENTENCES")"
  "$PYTHON" - >"$data/texts" <<<'
import random
words = "old new green house river cat dog run see over under near city light song tree road open file read".split()
for number in range(3000):
    print(" ".join(random.choices(words, k=random.randint(5, 15))) + f" {number}.", end="\n\n")'
  grep . "$data/texts" | gzip -c >"$data/$SENTENCES" && xz -c "$data/texts" >"$data/pretrain/corpus.txt.xz"
  export CUDA_VISIBLE_DEVICES="" ST_MIRROR_GPU_TESTS=cpu
  OUT=$data/out
  MINUTES=0.06
  TARGET=$("$PYTHON" -c "import sys; print('%d.%d' % sys.version_info[:2])")
  FIGURES=(--shape 1x64 --texts 60 --batch-size 16 --large 24 --mini-batch-size 8 --rounds 1 --backend eager
    --documents 8 --documents-shape 1x64)
  SECOND=(--batch 16)
  DOCUMENTS=3000
  MODEL=(--vocabulary 400 --layers 1 --width 32 --heads 2 --inner 32 --length 32 --batch 16)
  pack "$data" measure && measure && pack "$data" pretrain && pretrain && pack "$data" second && second
}

case ${1:-} in
  pack) pack "$(cd "${2:?the folder of the data}" && pwd)" "${3:?measure, pretrain or second}" ;;
  measure) measure ;;
  pretrain) pretrain ;;
  second) second ;;
  --tiny) tiny ;;
  *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
exit "$failed"
