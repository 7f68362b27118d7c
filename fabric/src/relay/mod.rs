//! A relay: forwards WireGuard datagrams between two members that cannot reach each other.
//!
//! Each of the two sends to the relay's one UDP port as if the other were there. What arrives is
//! ciphertext, and stays it: the relay looks only at what WireGuard shows to everyone (message type,
//! indices, `mac1`). A pair is opened by a member that asks over the fabric; datagrams of no open
//! pair go nowhere.
//!
//! ```text
//!   a ──▶ relay: initiation, mac1 made with b's public key ─▶ the pair {a, b}; a is heard from here
//!   b ──▶ relay: the same the other way                   ─▶ b is heard from here; now both have a leg
//!   then: every datagram goes to the leg that made its receiver index
//! ```
//!
//! - `message.rs`: what can be read of a datagram;
//! - `switch.rs`: the open pairs, and where a datagram goes.

mod message;
mod switch;

pub use switch::{MAX_PAIRS, Pair, Switch};
