"""Training samples whose label is questionable: a cross-fitted classifier of their features is sure of another class.

A sample is called questionable where its probability of another class is at least that class's mean over its own
samples, and higher than that of its label by that measure (confident learning). Features are those of the network that
was trained with these labels, so that some of what a wrong label taught it is in them.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021.
"""

import numpy as np
from jaxtyping import Float, Int
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 5
_COMPONENTS = 100


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
    """Samples whose label is questionable, the most questionable first; `labels` count the columns."""
    rows = np.arange(len(labels))
    confidence = np.array([probabilities[labels == klass, klass].mean() for klass in range(probabilities.shape[1])])
    lead = probabilities - confidence
    sure = np.where(lead >= 0, probabilities, -np.inf)
    others = sure.copy()
    others[rows, labels] = -np.inf
    suspect = np.isfinite(others.max(axis=1)) & (others.max(axis=1) > sure[rows, labels])
    margin = probabilities[rows, labels] - np.where(np.isfinite(others), others, 0.0).max(axis=1)
    found = np.flatnonzero(suspect)
    return found[np.argsort(margin[found], kind="stable")]
