"""Parameters of stochastic simulators, chosen by the gradients of local surrogates."""
