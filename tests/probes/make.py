"""Reference values for the fit of probes: TransformerLens' sparse probe (two classes) and scikit-learn's softmax regression
(three), with AUC by scikit-learn. Run beside this file; needs transformer_lens 4.3 and scikit-learn."""
import json

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from transformer_lens.tools.analysis.sparse_probing import fit_sparse_probe

# The ridge on the weights of standardised coordinates.
RIDGE = 1e-2


def data(classes):
    rng = np.random.default_rng(classes)
    labels = np.arange(60) % classes
    rows = rng.normal(size=(60, 8)) * np.array([1, 3, 0.2, 1, 10, 1, 2, 1]) + np.array([0, 5, 0, -2, 30, 0, 0, 1])
    rows[:, 1] += 6 * (labels == 1)
    rows[:, 4] -= 20 * (labels == classes - 1)
    return np.round(rows, 3).astype(np.float32), labels


rows, labels = data(2)
# Two vectors with half of the difference each cost half of what one vector of the difference costs.
probe = fit_sparse_probe(torch.tensor(rows), torch.tensor(labels), k=8, preprocess="standardize", std_floor=0.0,
                         class_weight=None, l2_strength=RIDGE / 2, seed=3)
order = np.argsort(probe.selected_features.numpy())
two = {
    "rows": rows.tolist(), "labels": labels.tolist(),
    "test": [int(i in probe.test_indices.tolist()) for i in range(60)],
    "weights": probe.coefficients.numpy()[order].tolist(), "bias": float(probe.intercept),
    "accuracy": probe.metrics.accuracy, "auc": probe.metrics.roc_auc,
}

rows, labels = data(3)
test = np.arange(60) // 3 % 4 == 1
train = rows[~test].astype(np.float64)
mean, scale = train.mean(0), train.std(0)
fitted = LogisticRegression(C=1 / (RIDGE * len(train)), tol=1e-10, max_iter=10000).fit((train - mean) / scale, labels[~test])
logits = fitted.decision_function((rows[test] - mean) / scale)
margins = [logits[:, c] - np.delete(logits, c, 1).max(1) for c in range(3)]
three = {
    "rows": rows.tolist(), "labels": labels.tolist(), "test": test.astype(int).tolist(),
    "weights": fitted.coef_.tolist(), "bias": fitted.intercept_.tolist(),
    "accuracy": float((logits.argmax(1) == labels[test]).mean()),
    "auc": float(np.mean([roc_auc_score(labels[test] == c, margins[c]) for c in range(3)])),
}
json.dump({"two": two, "three": three}, open("expected.json", "w"))
