//! Parts from outside: a belt that several cameras watch, a PLC that triggers and catches, and the truth of every part.
//!
//! The PLC is a program with a real MQTT client. It tells the number of each part when the part is there, and works its gate
//! by `reject_at`: a decision that it has not heard by then is as good as none.

#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of a test may fail by panicking")]

mod line;
mod overload;
mod plc;
mod triggers;
