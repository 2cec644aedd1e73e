//! A simulated network, strategies and invariants.
