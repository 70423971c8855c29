"""Training samples whose label is questionable: it is more likely wrong than right, by a cross-fitted classifier.

The labels are modelled as those of a classifier of some temperature, a share of which was exchanged for other classes
at random. Temperature and share are those for which the labels are most likely; each sample then has a probability that
its label was exchanged. Features are those of the network that was trained with these labels, so that some of what a
wrong label taught it is in them.

Source: Larsen, Nonboe, Hintz-Madsen and Hansen, "Design of Robust Neural Network Classifiers", ICASSP 1998.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 5
_COMPONENTS = 100
_TEMPERATURES = np.geomspace(0.25, 4, 81)
_SHARES = np.geomspace(0.001, 0.3, 81)


def cross_fitted_probabilities(
    features: Float[np.ndarray, "sample number"], labels: Int[np.ndarray, " sample"], *, seed: int = 0
) -> Float[np.ndarray, "sample klass"]:
    """Class probabilities of each sample by a logistic regression fitted on the other folds, of the classes present."""
    components = min(_COMPONENTS, features.shape[1], len(features) * (FOLDS - 1) // FOLDS)
    model = make_pipeline(
        PCA(components, random_state=seed), StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    probabilities: Float[np.ndarray, "sample klass"] = cross_val_predict(
        model, features, labels, cv=folds, method="predict_proba"
    )
    return probabilities


def questionable_labels(
    probabilities: Float[np.ndarray, "sample klass"], labels: Int[np.ndarray, " sample"]
) -> Int[np.ndarray, " suspect"]:
    """Samples whose label is more likely wrong than right, the most likely wrong first; `labels` count the columns."""
    rows, others = np.arange(len(labels)), probabilities.shape[1] - 1
    scores = np.log(probabilities + np.finfo(np.float32).tiny)
    best, right = -np.inf, np.ones(len(labels))
    for temperature in _TEMPERATURES:
        own = softmax(scores / temperature, axis=1)[rows, labels]
        kept = (1 - _SHARES) * own[:, None]
        given = kept + _SHARES * (1 - own[:, None]) / others
        likelihoods = np.log(given).sum(axis=0)
        share = int(likelihoods.argmax())
        if likelihoods[share] > best:
            best, right = likelihoods[share], kept[:, share] / given[:, share]
    suspects = np.flatnonzero(right < 0.5)
    return suspects[np.argsort(right[suspects], kind="stable")]
