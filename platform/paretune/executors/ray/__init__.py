"""Ray: a session (`session`), Tune's trials (`trials`), jobs on a cluster (`jobs`)."""
