"""Settings of the process that PyTorch reads when it loads, and that make CPUs faster without changing any result.

Whoever is about to load torch calls `prepare` first; what the user has set stays as it is. Loads nothing itself.
"""

import os

SETTINGS = {
    # OpenMP's threads spin while they wait: painting becomes several times slower as soon as another program takes a
    # core. Going to sleep at once can make it half as slow again where waking up is slow, so they spin for an instant.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",
    # Activations are large and live for an instant: huge pages save most of the page faults, a tenth of the time.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def prepare() -> None:
    """Put the settings into the environment, unless they are there."""
    own_policy = os.environ.get("OMP_WAIT_POLICY", SETTINGS["OMP_WAIT_POLICY"]) != SETTINGS["OMP_WAIT_POLICY"]
    for name, value in SETTINGS.items():
        if not (own_policy and name == "GOMP_SPINCOUNT"):  # which would count for more than the policy
            os.environ.setdefault(name, value)
