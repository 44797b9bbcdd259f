//! Tests of the model and of the stores.

mod basins;
mod channels;
mod codecs;
mod crash;
mod failure;
mod forwarding;
mod harness;
mod placement;
mod random;
mod replicas;
mod streams;
mod suite;
