//! What users ask for, as orders of steps: making and resetting clusters, changing them, proving what they are.
//!
//! Decides what is done when, and what is undone; leaves how to `adapters`, and what to write to `documents`.

pub mod api_server;
pub mod breakage;
pub mod carry;
pub mod cis;
pub mod cluster;
pub mod encryption;
pub mod load;
pub mod logs;
pub mod verify;
