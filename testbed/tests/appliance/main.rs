//! Stories about machines that boot the appliance's image. `make image` builds it; without one they fail
//! and say so.

mod boot;
mod harm;
