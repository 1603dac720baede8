"""Figures of predictions, worked out by scikit-learn: PREDICTIONS.csv (golden,label,score) in, figures to stdout.

    pip install scikit-learn==1.9.1
    python sklearn_figures.py hate.csv > hate.sklearn.csv

An undecided row has an empty label. A figure over no rows is empty: scikit-learn is told to give not-a-number there.
"""

import csv
import sys

from sklearn.metrics import accuracy_score, precision_recall_fscore_support as figures

rows = list(csv.DictReader(open(sys.argv[1], newline="")))
golden = [row["golden"] for row in rows]
given = [row["label"] or "undecided" for row in rows]
labels = sorted((set(golden) | set(given)) - {"undecided"})
nan = float("nan")


def line(label, precision, recall, f1, accuracy=""):
    said = ["" if value != value else repr(float(value)) for value in (precision, recall, f1)]
    print(",".join([label, *said, accuracy]))


print("label,precision,recall,f1,accuracy")
each = figures(golden, given, labels=labels, zero_division=nan)
for at, label in enumerate(labels):
    line(label, *(each[figure][at] for figure in range(3)))
micro = figures(golden, given, labels=labels, average="micro", zero_division=nan)
line("*", *micro[:3], accuracy=repr(float(accuracy_score(golden, given))))
