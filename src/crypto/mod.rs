//! The only place that names orion.
