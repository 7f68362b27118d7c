//! Stories about machines that boot the appliance's image. `make image` builds it; without one they fail
//! and say so; those of updates need the release after it, from `make image-next`.

mod boot;
mod clock;
mod cuts;
mod debug;
mod harm;
mod install;
mod keeper;
mod release;
mod storage;
mod up;
mod update;
