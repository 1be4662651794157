"""One module a use case: sweep, train, optimize, evaluate, profile, advise, predict."""
