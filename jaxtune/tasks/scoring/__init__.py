"""Metrics: pure functions over lists and NumPy arrays, exact, on the host, once per evaluation.

One file per kind of prediction. Where a field has a reference implementation, the numbers are that
one's, on its scale: scikit-learn and SciPy (classes, labels, numbers: 0 to 1), seqeval and conlleval
(entities: 0 to 1), the official SQuAD scripts (0 to 100), sacreBLEU (0 to 100), rouge-score (0 to 1).
"""
