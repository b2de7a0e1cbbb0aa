"""From a recipe to a checked artefact, its configs and its report, in a Triton model repository."""
