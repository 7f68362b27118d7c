//! Files between this machine and a workload, as tar streams: `place` reads the two arguments,
//! `feed` is a source of either kind, `pack` writes local files as a tar stream, `unpack` the other way, `pipe` joins blocking tar
//! code to async streams.

pub mod feed;
pub mod pack;
pub mod pipe;
pub mod place;
pub mod unpack;
