//! Tests of the model and of the stores.

mod basins;
mod chain;
mod channels;
mod codecs;
mod crash;
mod failure;
mod flush;
mod forwarding;
mod harness;
mod merge;
mod placement;
mod random;
mod random_segments;
mod replicas;
mod segments;
mod streams;
mod suite;
mod upgrade;
